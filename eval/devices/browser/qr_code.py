"""A QR code of an address, as text for a terminal."""


def qr_code(text: str) -> str:
    """A QR code as lines for a terminal, two rows of it on each line.

    The colours are set, so that it is dark on white whatever the terminal has.
    """
    import segno

    code = segno.make(text, error="l", micro=False)
    rows = [list(row) for row in code.matrix_iter(border=2)]
    rows += [[0] * len(rows[0])] * (len(rows) % 2)
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        # The character is the lower half of its cell. The background is the upper half.
        cells = "".join(
            f"\033[{40 if top else 107};{30 if bottom else 97}m▄"
            for top, bottom in zip(upper, lower, strict=True)
        )
        lines.append(f"{cells}\033[0m")
    return "\n".join(lines)
