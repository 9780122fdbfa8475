//! A report as one HTML file that needs nothing else: facts, tables, and plots drawn as SVG.

use std::fmt::Write;

/// A line through points, with its name.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub title: String,
    pub x: String,
    pub y: String,
    pub series: Vec<Series>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub title: String,
    pub facts: Vec<(String, String)>,
    pub tables: Vec<(String, Vec<Vec<String>>)>,
    pub plots: Vec<Plot>,
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b2733}\
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse}td,th{padding:.25rem .9rem .25rem 0;\
text-align:right;border-bottom:1px solid #d8dee4}td:first-child,th:first-child{text-align:left}dl{display:grid;\
grid-template-columns:max-content auto;gap:.1rem 1rem}dt{color:#5b6b7a}dd{margin:0;overflow-wrap:anywhere}svg{width:100%;\
height:auto}text{font:12px system-ui,sans-serif;fill:#43525f}";
/// Told apart also by those who see few colours.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 45.0;
const TOP: f64 = 30.0;

impl Page {
    pub(crate) fn html(&self) -> String {
        let title = escape(&self.title);
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\
             <body>\n<h1>{title}</h1>\n<dl>"
        );
        for (name, value) in &self.facts {
            let _ = write!(html, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        }
        html.push_str("</dl>\n");
        for (title, rows) in &self.tables {
            let _ = write!(html, "<h2>{}</h2>\n<table>", escape(title));
            for (n, row) in rows.iter().enumerate() {
                let cell = if n == 0 { "th" } else { "td" };
                html.push_str("<tr>");
                row.iter().for_each(|text| {
                    let _ = write!(html, "<{cell}>{}</{cell}>", escape(text));
                });
                html.push_str("</tr>\n");
            }
            html.push_str("</table>\n");
        }
        self.plots.iter().for_each(|plot| html.push_str(&plot.svg()));
        html.push_str("</body></html>\n");
        html
    }
}

impl Plot {
    fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let most = |values: &mut dyn Iterator<Item = f64>| nice(values.fold(0.0, f64::max));
        let ((most_x, across), (most_y, up)) =
            (most(&mut points().map(|p| p.0)), most(&mut points().map(|p| p.1)));
        let x = |value: f64| LEFT + value / most_x * (WIDTH - LEFT - 20.0);
        let y = |value: f64| HEIGHT - BOTTOM - value / most_y * (HEIGHT - BOTTOM - TOP);
        let mut svg = format!(
            "<h2>{}</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n",
            escape(&self.title)
        );
        self.grid(&mut svg, (most_x, across), (most_y, up), &x, &y);
        self.lines(&mut svg, &x, &y);
        let middle = f64::midpoint(HEIGHT, TOP - BOTTOM);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text><text x=\"14\" y=\"{middle}\" text-anchor=\"middle\" \
             transform=\"rotate(-90 14 {middle})\">{}</text>\n</svg>",
            WIDTH / 2.0,
            HEIGHT - 6.0,
            escape(&self.x),
            escape(&self.y)
        );
        svg
    }

    /// Lines and numbers at each step of both axes: how far they go, in how many steps.
    fn grid(
        &self,
        svg: &mut String,
        (most_x, across): (f64, u32),
        (most_y, up): (f64, u32),
        x: &dyn Fn(f64) -> f64,
        y: &dyn Fn(f64) -> f64,
    ) {
        let steps = |most: f64, count: u32| (0..=count).map(move |n| most * f64::from(n) / f64::from(count));
        for value in steps(most_y, up) {
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e3e8ec\"/><text x=\"{}\" \
                 y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - 20.0,
                LEFT - 8.0,
                y(value) + 4.0,
                short(value),
                at = y(value),
            );
        }
        for value in steps(most_x, across) {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                x(value),
                HEIGHT - BOTTOM + 18.0,
                short(value)
            );
        }
    }

    fn lines(&self, svg: &mut String, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
        for (n, series) in self.series.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let line: Vec<String> =
                series.points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
            let _ = write!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                line.join(" ")
            );
            if series.points.len() <= 40 {
                for (px, py) in &series.points {
                    let _ = write!(
                        svg,
                        "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                        x(*px),
                        y(*py)
                    );
                }
            }
            let at = LEFT + 10.0 + 150.0 * f64::from(u16::try_from(n).unwrap_or(0));
            let _ = writeln!(
                svg,
                "<rect x=\"{at}\" y=\"6\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"15\">{}</text>",
                at + 15.0,
                escape(&series.name)
            );
        }
    }
}

/// A round number at or above, and how many steps lead to it, each of a round number itself.
fn nice(most: f64) -> (f64, u32) {
    if most <= 0.0 {
        return (1.0, 4);
    }
    let power = 10_f64.powf(most.log10().floor());
    let tops =
        [(1.0, 4), (1.2, 4), (1.5, 3), (2.0, 4), (2.5, 5), (3.0, 3), (4.0, 4), (5.0, 5), (6.0, 3), (8.0, 4)];
    let (top, steps) = tops.into_iter().find(|(top, _)| top * power >= most).unwrap_or((10.0, 4));
    (top * power, steps)
}

fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e4 => (v / 1e3, " k"),
        v => (v, ""),
    };
    let text = format!("{value:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_nothing_else_and_shows_text_as_text() {
        let series = vec![Series { name: "a<b".into(), points: vec![(0.0, 0.0), (1.0, 3e6)] }];
        let plot = Plot { title: "rate".into(), x: "s".into(), y: "packets/s".into(), series };
        let table = ("t".to_owned(), vec![vec!["head".to_owned()], vec!["<script>".to_owned()]]);
        let page = Page { title: "x & y".into(), plots: vec![plot], tables: vec![table], ..Page::default() };
        let html = page.html();
        assert!(html.contains("x &amp; y") && html.contains("a&lt;b") && html.contains("<polyline"));
        assert!(!html.contains("<script") && !html.contains("http"));
    }

    #[test]
    fn axes_end_close_above_what_is_shown_and_have_round_numbers() {
        for (most, top, steps, labels) in [
            (1_070_000.0, 1.2e6, 4, ["0", "300 k", "600 k", "900 k", "1.2 M"].as_slice()),
            (3.0, 3.0, 3, &["0", "1", "2", "3"]),
            (17_301.0, 20_000.0, 4, &["0", "5000", "10 k", "15 k", "20 k"]),
            (0.13, 0.15, 3, &["0", "0.05", "0.1", "0.15"]),
            (9.1, 10.0, 4, &["0", "2.5", "5", "7.5", "10"]),
        ] {
            let (end, count) = nice(most);
            assert!((end - top).abs() < 1e-9 * top && count == steps, "{most}: {end}, {count}");
            let shown: Vec<String> =
                (0..=count).map(|n| short(end * f64::from(n) / f64::from(count))).collect();
            assert_eq!(shown, labels);
        }
    }
}
