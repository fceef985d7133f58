//! A graph as lines, discs and words on a sheet, for SVG and PNG.

use crate::{
    graph::{Dot, Graph, Kind, layout},
    table::bytes,
};

/// Radius of a node; our own node is larger.
const RADIUS: f64 = 9.0;
/// Margin around the drawing.
const MARGIN: f64 = 40.0;
/// Size of names, size of the title, and width of a letter in a name.
pub(super) const SMALL: f64 = 16.0;
pub(super) const LARGE: f64 = 20.0;
const LETTER: f64 = 0.6;
/// Height above the nodes, for title and legend.
const HEAD: f64 = 70.0;
/// Colour of links between other nodes, and of all links in a large mesh.
const GREY: &str = "#b8b8b8";

/// Shapes in drawing order, in pixels from the upper left corner.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scene {
    pub(super) size: [f64; 2],
    pub(super) shapes: Vec<Shape>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    Line {
        ends: [[f64; 2]; 2],
        colour: &'static str,
        width: f64,
        dashed: bool,
    },
    Disc {
        at: [f64; 2],
        radius: f64,
        colour: &'static str,
        /// Draw the outline only.
        hollow: bool,
    },
    /// Text, centred at its base line, or starting there.
    Words {
        at: [f64; 2],
        size: f64,
        centred: bool,
        colour: &'static str,
        text: String,
    },
}

/// Returns the width of a text.
fn width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * LETTER
}

/// Returns the lines below a node.
fn label(dot: &Dot, traffic: bool) -> Vec<String> {
    let counted = dot.rx_bytes.zip(dot.tx_bytes).filter(|_| traffic);
    let counted = counted.map(|(rx, tx)| format!("in {} out {}", bytes(rx), bytes(tx)));
    [Some(dot.name.clone()), counted]
        .into_iter()
        .flatten()
        .collect()
}

pub(super) fn scene(graph: &Graph) -> Scene {
    let index = graph.index();
    let ends = |line: &super::Line| {
        Some((
            *index.get(line.from.as_str())?,
            *index.get(line.to.as_str())?,
        ))
    };
    let links: Vec<(usize, usize)> = graph.links.iter().filter_map(ends).collect();
    let labels: Vec<Vec<String>> = graph
        .nodes
        .iter()
        .map(|dot| label(dot, graph.traffic))
        .collect();
    let sizes: Vec<[f64; 2]> = labels
        .iter()
        .map(|lines| {
            let wide = lines
                .iter()
                .map(|line| width(line, SMALL))
                .fold(2.0 * RADIUS, f64::max);
            [
                wide + 14.0,
                2.0 * RADIUS + lines.len() as f64 * SMALL + 16.0,
            ]
        })
        .collect();
    let mut places = layout::places(&sizes, &links);
    let size = fit(graph, &mut places, &sizes);

    let mut shapes = head(graph);
    // Our links are drawn above the others.
    for ours in [false, true] {
        for line in graph
            .links
            .iter()
            .filter(|line| line.kind.is_some() == ours)
        {
            let Some((a, b)) = ends(line) else { continue };
            let kind = line.kind.unwrap_or(Kind::Configured);
            shapes.push(Shape::Line {
                ends: [places[a], places[b]],
                colour: if ours { kind.colour() } else { GREY },
                width: if ours { thickness(graph, a, b) } else { 1.2 },
                dashed: ours && matches!(kind, Kind::Unreachable | Kind::Configured),
            });
        }
    }
    for ((dot, at), lines) in graph.nodes.iter().zip(&places).zip(&labels) {
        shapes.push(Shape::Disc {
            at: *at,
            radius: if dot.kind == Kind::Own {
                RADIUS + 3.0
            } else {
                RADIUS
            },
            colour: dot.kind.colour(),
            hollow: matches!(dot.kind, Kind::Unreachable | Kind::Configured),
        });
        for (row, text) in lines.iter().enumerate() {
            shapes.push(Shape::Words {
                at: [at[0], at[1] + RADIUS + 3.0 + (row as f64 + 1.0) * SMALL],
                size: SMALL,
                centred: true,
                colour: if row == 0 { "#222222" } else { "#666666" },
                text: text.clone(),
            });
        }
    }
    Scene { size, shapes }
}

/// Moves everything onto the sheet, and returns the size of the sheet.
fn fit(graph: &Graph, places: &mut [[f64; 2]], sizes: &[[f64; 2]]) -> [f64; 2] {
    let edge = |axis: usize, sign: f64| {
        let all = places.iter().zip(sizes);
        all.map(|(at, size)| sign * at[axis] + size[axis] / 2.0)
            .fold(f64::MIN, f64::max)
    };
    let (low, high) = (
        [-edge(0, -1.0), -edge(1, -1.0)],
        [edge(0, 1.0), edge(1, 1.0)],
    );
    let head = legend(graph)
        .iter()
        .map(|(_, text)| width(text, SMALL) + 46.0)
        .sum::<f64>();
    let head = head.max(width(&graph.title, LARGE)) + 2.0 * MARGIN;
    let natural = high[0] - low[0] + 2.0 * MARGIN;
    let wide = natural.max(head).ceil();
    for at in places.iter_mut() {
        at[0] += MARGIN - low[0] + (wide - natural) / 2.0;
        at[1] += MARGIN - low[1] + HEAD;
    }
    [wide, (high[1] - low[1] + 2.0 * MARGIN + HEAD).ceil()]
}

/// With traffic, the width of a line is the number of digits of its bytes.
fn thickness(graph: &Graph, a: usize, b: usize) -> f64 {
    let sum = |dot: &Dot| {
        dot.rx_bytes
            .unwrap_or_default()
            .saturating_add(dot.tx_bytes.unwrap_or_default())
    };
    let most = sum(&graph.nodes[a]).max(sum(&graph.nodes[b]));
    match graph.traffic {
        true => 1.5 + (most.max(1) as f64).log10() * 0.7,
        false => 2.5,
    }
}

/// Returns the kinds in the graph, with the count of each.
fn legend(graph: &Graph) -> Vec<(Kind, String)> {
    let count = |kind: Kind| graph.nodes.iter().filter(|dot| dot.kind == kind).count();
    let there = Kind::ALL.into_iter().filter(|kind| count(*kind) > 0);
    there
        .map(|kind| match (kind, count(kind)) {
            (Kind::Own, _) => (kind, kind.word().to_owned()),
            (_, count) => (kind, format!("{count} {}", kind.word())),
        })
        .collect()
}

fn head(graph: &Graph) -> Vec<Shape> {
    let mut shapes = vec![Shape::Words {
        at: [MARGIN, 34.0],
        size: LARGE,
        centred: false,
        colour: "#000000",
        text: graph.title.clone(),
    }];
    let mut x = MARGIN;
    for (kind, text) in legend(graph) {
        shapes.push(Shape::Disc {
            at: [x + RADIUS, 59.0],
            radius: RADIUS,
            colour: kind.colour(),
            hollow: matches!(kind, Kind::Unreachable | Kind::Configured),
        });
        let at = [x + 2.0 * RADIUS + 7.0, 64.0];
        x = at[0] + width(&text, SMALL) + 21.0;
        shapes.push(Shape::Words {
            at,
            size: SMALL,
            centred: false,
            colour: "#222222",
            text,
        });
    }
    shapes
}
