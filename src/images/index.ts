export { clipPreprocess, readPreprocessorConfig, type PreprocessorConfig } from "./clip-preprocess.js";
export { contactSheet, imageGrid, type ContactSheetOptions, type SheetColumn } from "./contact-sheet.js";
export { lineChart, type LineChartOptions, type Series } from "./line-chart.js";
export {
  figure,
  stylesOf,
  type FigureOptions,
  type Panel,
  type PlotPoint,
  type PlotSeries,
  type SeriesStyle,
} from "./plot.js";
export { escape, renderSvg } from "./svg.js";
export { ImageError } from "./error.js";
export { encodePng, readImage, toPixels, writePng } from "./png.js";
