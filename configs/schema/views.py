"""`ViewsConfig`: how training changes a photo."""

from typing import Annotated

from pydantic import Field, model_validator

from configs.records import Share, Strict


class ViewsConfig(Strict):
    """Views: how training changes a photo. Teacher and student see the same views."""

    crop: tuple[float, float] | None = (0.5, 1.0)
    """Smallest and largest share of the photo's area in a training view. null: the whole photo."""
    flip: bool = True
    """Mirror half of the views left to right."""
    vertical_flip: bool = False
    """Mirror half of the views top to bottom."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotate by up to this many degrees, either way."""
    shift: Share = 0.0
    """Move by up to this share of the side, horizontally and vertically."""
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Shear by up to this many degrees, either way."""
    zoom: Annotated[float, Field(ge=0)] = 0.0
    """Stretch or shrink each side by a factor of up to 1 + zoom."""
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Add or subtract up to this share of white."""
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Scale the distance of each pixel to the mean colour by 1 - contrast to 1 + contrast."""
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Scale the distance of each pixel to grey by 1 - saturation to 1 + saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Shift colours by up to this share of the colour circle, either way."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Add noise to the pixels. Its standard deviation is up to this share of white."""
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the views in which a rectangle is erased."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Blend in another photo, by a share that is drawn from Beta(mixup, mixup). 0: never."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Cover a share of the view with another photo, drawn from Beta(cutmix, cutmix). 0: never."""

    @model_validator(mode="after")
    def _crop_in_order(self) -> "ViewsConfig":
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError("crop must be [smallest, largest] with 0 < smallest <= largest <= 1")
        return self
