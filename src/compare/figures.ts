/** The figures of a report: curves against each cost, and alignment against diversity. */
import { figure, stylesOf, type FigureOptions, type Panel } from "../images/index.js";
import type { Axis } from "./curves.js";
import { axisTitles, isShare, listTitle, measureNames, measureTitle, splitKey } from "./measures.js";
import { alignmentAndDiversity, type MeasureReport, type Report } from "./report.js";
import { listsOf } from "./tables.js";

/** A figure as SVG, and its file name without extension. */
export interface Figure {
  readonly name: string;
  readonly svg: string;
}

/** @param options.legend whether each figure has a legend of its own */
export function figuresOf(report: Report, { legend }: { legend: boolean }): Figure[] {
  const names = measureNames(report.measures.map(({ key }) => key));
  const byMeasure = names.flatMap((name) =>
    listsOf(report).flatMap((list) => report.measures.find(({ key }) => key === `${list}/${name}`) ?? []),
  );
  const tradeOffs = listsOf(report).flatMap((list) => tradeOff(report, list, legend));
  return [...byMeasure.map((measure) => curves(report, measure, legend)), ...tradeOffs];
}

function curves(report: Report, measure: MeasureReport, legend: boolean): Figure {
  const { list, name } = splitKey(measure.key);
  const title = `${capital(measureTitle(name))}, ${listTitle(list)}`;
  const options: FigureOptions = {
    title,
    subtitle: `Mean over ${report.seeds.length} seeds; bands are 95% bootstrap intervals`,
    yLabel: isShare(name) ? "% of images" : measureTitle(name),
    legend,
  };
  const panels = report.axes.map((axis) => panelOf(report, measure, axis));
  return { name: fileName(measure.key), svg: figure(panels, stylesOf(ordered(report)), options) };
}

function panelOf(report: Report, { key, curves, evaluations }: MeasureReport, axis: Axis): Panel {
  const target = report.targets.find((one) => one.key === key)?.target;
  const styles = ordered(report);
  const show = showTick(splitKey(key).name);
  return {
    title: `at equal ${axisTitles[axis]}`,
    xLabel: axisTitles[axis],
    showY: show,
    ...(target !== undefined && { level: { y: target, label: `target ${show(target)}` } }),
    series: report.settings.flatMap((setting) => {
      const line = curves[axis]?.[setting] ?? [];
      const marks = evaluations[setting] ?? [];
      if (line.length === 0) return [];
      const bounded = (y: { mean: number; low: number | null; high: number | null }) => ({
        y: y.mean,
        yLow: y.low,
        yHigh: y.high,
      });
      return [
        {
          style: styles.indexOf(setting),
          band: true,
          line: line.map((point) => ({ x: point.at, ...bounded(point) })),
          marks: marks.map(({ cost, value }) => ({ x: cost[axis], ...bounded(value) })),
        },
      ];
    }),
  };
}

/** Alignment against each diversity: the way of the mean from the base model on, and the end with its intervals. */
function tradeOff(report: Report, list: string, legend: boolean): Figure[] {
  const pairs = alignmentAndDiversity(report, list);
  if (pairs.length === 0) return [];
  const styles = ordered(report);
  const [alignment] = pairs[0]!;
  const name = splitKey(alignment.key).name;
  const panels = pairs.map(([, diversity]): Panel => ({
    title: measureTitle(splitKey(diversity.key).name),
    xLabel: isShare(name) ? `${measureTitle(name)}, % of images` : measureTitle(name),
    fromZero: false,
    showX: showTick(name),
    series: report.settings.flatMap((setting) => {
      const points = (alignment.evaluations[setting] ?? []).flatMap(({ stage, value: x }) => {
        const y = diversity.evaluations[setting]?.find((other) => other.stage === stage)?.value;
        return y === undefined
          ? []
          : [{ x: x.mean, xLow: x.low, xHigh: x.high, y: y.mean, yLow: y.low, yHigh: y.high }];
      });
      if (points.length === 0) return [];
      const line = points.map(({ x, y }) => ({ x, y }));
      return [{ style: styles.indexOf(setting), line, marks: points.slice(-1) }];
    }),
  }));
  const options = {
    title: `Diversity against ${measureTitle(name)}, ${listTitle(splitKey(alignment.key).list)}`,
    subtitle: "From the base model on, mean over seeds; the point is the end of training, with 95% intervals",
    yLabel: "diversity",
    sharedY: false,
    legend,
  };
  return [{ name: `${list}-diversity-against-alignment`, svg: figure(panels, stylesOf(styles), options) }];
}

/** Settings in the order of colours: the baseline first. */
export const ordered = ({ settings, baseline }: Report): string[] => [
  baseline,
  ...settings.filter((setting) => setting !== baseline),
];

const showTick =
  (name: string) =>
  (value: number): string =>
    isShare(name) ? String(Number((100 * value).toFixed(1))) : String(Number(value.toPrecision(3)));

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

const fileName = (key: string): string => key.replaceAll(/[^\w-]+/g, "-");
