// Colours of requests: as far apart as can be for neighbours, and all of one lightness.

const GOLDEN_ANGLE = 137.508;

/** The colour of a request as [red, green, blue], 0 … 255. */
export function colourOf(id, dark) {
  return oklch(dark ? 0.72 : 0.63, 0.115, (id * GOLDEN_ANGLE + 40) % 360);
}

export const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

/** `share` of `a`, the rest `b`. */
export const mixed = (a, b, share) => a.map((value, index) => Math.round(share * value + (1 - share) * b[index]));

/** sRGB of a colour in Oklch: Björn Ottosson's matrices. */
export function oklch(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map(encoded);
}

function encoded(linear) {
  const value = Math.min(1, Math.max(0, linear));
  return Math.round(255 * (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055));
}
