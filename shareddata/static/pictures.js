// Pictures of what changes: one after the other as fast as this browser takes them, skipped, never queued.

/** Show a picture in a figure; while one is on its way, only the address that is wanted last is kept. */
export function load(figure, address, ended = () => {}) {
  figure.wanted = [address, ended];
  if (figure.loading || figure.address === address) return;
  const image = figure.querySelector("img");
  figure.loading = true;
  figure.address = address;
  image.onload = image.onerror = () => {
    figure.loading = false;
    ended();
    load(figure, ...figure.wanted);
  };
  image.src = address;
}
