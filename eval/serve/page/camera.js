// The camera: live where the browser allows it (https or localhost), else a phone's own camera app.

const element = (id) => document.getElementById(id);

/** Calls `use(blob)` with each photo that is taken. */
export function watchCamera(use) {
  const button = element("camera"), shoot = element("shoot"), video = element("video");
  if (!navigator.mediaDevices?.getUserMedia) {
    button.addEventListener("click", () => {
      const input = element("choose");
      input.setAttribute("capture", "environment");
      input.click();
      input.removeAttribute("capture");
    });
    return;
  }
  let stream = null;

  function stop() {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    video.hidden = shoot.hidden = true;
    button.textContent = "Use the camera";
  }

  button.addEventListener("click", async () => {
    if (stream) {
      stop();
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      element("hint").textContent = `The camera cannot be used: ${error.message}.`;
      element("hint").hidden = false;
      return;
    }
    video.srcObject = stream;
    await video.play();
    video.hidden = shoot.hidden = false;
    element("preview").hidden = true;
    button.textContent = "Stop the camera";
    shoot.focus();
  });
  shoot.addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    stop();
    canvas.toBlob((blob) => use(new File([blob], "camera.png", { type: "image/png" })));
  });
}
