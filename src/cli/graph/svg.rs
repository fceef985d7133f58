//! A scene as SVG text.

use std::fmt::Write;

use crate::graph::shapes::{Scene, Shape};

pub(super) fn draw(scene: &Scene) -> String {
    let [width, height] = scene.size;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"'Noto Sans Mono','DejaVu Sans Mono',monospace\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for shape in &scene.shapes {
        write(&mut out, shape).expect("writing to a string cannot fail");
    }
    out.push_str("</svg>\n");
    out
}

fn write(out: &mut String, shape: &Shape) -> std::fmt::Result {
    match shape {
        Shape::Line {
            ends: [[x1, y1], [x2, y2]],
            colour,
            width,
            dashed,
        } => {
            let dashes = if *dashed {
                " stroke-dasharray=\"7 5\""
            } else {
                ""
            };
            writeln!(
                out,
                "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width:.1}\"{dashes}/>"
            )
        }
        Shape::Disc {
            at: [x, y],
            radius,
            colour,
            hollow,
        } => {
            let fill = if *hollow { "#ffffff" } else { colour };
            writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            )
        }
        Shape::Words {
            at: [x, y],
            size,
            centred,
            colour,
            text,
        } => {
            let anchor = if *centred {
                " text-anchor=\"middle\""
            } else {
                ""
            };
            writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\"{anchor} \
                 stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\">{}</text>",
                escaped(text)
            )
        }
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
        .replace(|c: char| c.is_control(), " ")
}
