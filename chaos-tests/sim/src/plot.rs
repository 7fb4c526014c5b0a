//! Lines in SVG, as far as a page of measurements needs them.

use std::fmt::Write;

/// One line, as (x, y).
#[derive(Debug, Clone)]
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 36.0;

/// Told apart by people who see few colours too (Okabe and Ito's palette, and repeats of it).
const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#888888",
];

/// A plot of lines from 0 up; `marks` are y values with a dashed line and a word.
#[must_use]
pub fn lines(title: &str, x: &str, lines: &[Line], marks: &[(f64, &str)]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let x_max = points().map(|point| point.0).fold(1.0, f64::max);
    let y_max = points().map(|point| point.1);
    let y_max = y_max
        .chain(marks.iter().map(|mark| mark.0))
        .fold(0.0, f64::max)
        * 1.05;
    let at_x = |x: f64| LEFT + x / x_max * (WIDTH - LEFT - RIGHT);
    let at_y = |y: f64| HEIGHT - BOTTOM - y / y_max.max(1e-9) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"13\">{title}</text>\n"
    );
    let mut put = |line: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "{line}");
    };
    for tick in 0..=4 {
        let (x_tick, y_tick) = (x_max * f64::from(tick) / 4.0, y_max * f64::from(tick) / 4.0);
        put(format!(
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{x_tick:.0}</text>\
             <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{y_tick:.2}</text>\
             <line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/>",
            at_x(x_tick),
            HEIGHT - BOTTOM + 14.0,
            LEFT - 6.0,
            at_y(y_tick) + 4.0,
            WIDTH - RIGHT,
            at_y(y_tick),
            at_y(y_tick),
        ));
    }
    put(format!(
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{x}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 6.0
    ));
    for (y, word) in marks {
        put(format!(
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#444444\" \
             stroke-dasharray=\"4 3\"/><text x=\"{:.0}\" y=\"{:.1}\">{word}</text>",
            WIDTH - RIGHT,
            at_y(*y),
            at_y(*y),
            LEFT + 4.0,
            at_y(*y) - 3.0,
        ));
    }
    for (index, line) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let dash = match index / COLOURS.len() {
            0 => "",
            _ => " stroke-dasharray=\"6 2\"",
        };
        let path = line.points.iter();
        let path: Vec<String> = path
            .map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y)))
            .collect();
        put(format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\"{dash} points=\"{}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\" fill=\"{colour}\">{}</text>",
            path.join(" "),
            WIDTH - RIGHT + 8.0,
            TOP + 10.0 + 15.0 * index as f64,
            line.name,
        ));
    }
    svg.push_str("</svg>\n");
    svg
}
