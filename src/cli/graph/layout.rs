//! Places nodes: forces between them, then room for their labels. The same graph always gives the same picture.
//!
//! Source: Fruchterman and Reingold, "Graph Drawing by Force-directed Placement" (1991).

/// Maximum number of pair computations in all steps: about two seconds for the largest meshes.
const WORK: usize = 40_000_000;
/// Maximum and minimum number of steps.
const STEPS: [usize; 2] = [400, 40];
/// Maximum number of rounds that move overlapping labels apart.
const ROUNDS: usize = 300;
/// Attraction of the centre. It keeps unlinked nodes in the picture.
const GRAVITY: f64 = 0.06;
/// Angle between consecutive nodes of the spiral: no two nodes are on one ray.
const GOLDEN: f64 = 2.399_963_229_728_653;

/// A place, in pixels.
pub(super) type Point = [f64; 2];

/// Places `sizes.len()` boxes (width and height in pixels, around the place) without overlap, and linked boxes near
/// each other.
pub(super) fn places(sizes: &[[f64; 2]], links: &[(usize, usize)]) -> Vec<Point> {
    let count = sizes.len();
    if count < 2 {
        return vec![[0.0; 2]; count];
    }
    // The area of the boxes, and the same area between them.
    let area: f64 = sizes.iter().map(|[width, height]| width * height).sum();
    let ideal = (3.0 * area / count as f64).sqrt();
    let mut at = spiral(count, links, ideal);
    settle(&mut at, links, ideal);
    make_room(&mut at, sizes);
    at
}

/// Returns start places: the node with the most links in the middle, then its neighbours.
fn spiral(count: usize, links: &[(usize, usize)], ideal: f64) -> Vec<Point> {
    let mut next = vec![Vec::new(); count];
    for (a, b) in links {
        next[*a].push(*b);
        next[*b].push(*a);
    }
    let mut by_links: Vec<usize> = (0..count).collect();
    by_links.sort_by_key(|node| std::cmp::Reverse(next[*node].len()));
    let mut order = Vec::with_capacity(count);
    let mut seen = vec![false; count];
    for first in by_links {
        let mut at = order.len();
        if !std::mem::replace(&mut seen[first], true) {
            order.push(first);
        }
        while let Some(node) = order.get(at).copied() {
            for end in &next[node] {
                if !std::mem::replace(&mut seen[*end], true) {
                    order.push(*end);
                }
            }
            at += 1;
        }
    }
    let mut places = vec![[0.0; 2]; count];
    for (turn, node) in order.into_iter().enumerate() {
        let (angle, far) = (turn as f64 * GOLDEN, (turn as f64).sqrt() * ideal);
        places[node] = [far * angle.cos(), far * angle.sin()];
    }
    places
}

/// Moves nodes: they repel each other, links attract, and the temperature falls.
fn settle(at: &mut [Point], links: &[(usize, usize)], ideal: f64) {
    let count = at.len();
    let [most, least] = STEPS;
    let steps = (WORK / (count * count)).clamp(least, most);
    let mut degree = vec![0_usize; count];
    for (a, b) in links {
        degree[*a] += 1;
        degree[*b] += 1;
    }
    for step in 0..steps {
        let mut force = vec![[0.0; 2]; count];
        for a in 0..count {
            for b in a + 1..count {
                let (way, far) = between(at[a], at[b]);
                let push = ideal * ideal / far;
                for axis in 0..2 {
                    force[a][axis] += way[axis] * push;
                    force[b][axis] -= way[axis] * push;
                }
            }
        }
        for (a, b) in links {
            let (way, far) = between(at[*a], at[*b]);
            // Otherwise a hub would pull all its neighbours into one knot.
            let many = degree[*a].min(degree[*b]).max(1) as f64;
            let pull = far * far / ideal / many.sqrt();
            for axis in 0..2 {
                force[*a][axis] -= way[axis] * pull;
                force[*b][axis] += way[axis] * pull;
            }
        }
        let heat = ideal * 2.0 * (1.0 - step as f64 / steps as f64).powi(2) + 0.01 * ideal;
        for (place, force) in at.iter_mut().zip(&mut force) {
            for axis in 0..2 {
                force[axis] -= GRAVITY * place[axis] * (count as f64).sqrt();
            }
            let size = force[0].hypot(force[1]).max(1e-9);
            for axis in 0..2 {
                place[axis] += force[axis] / size * size.min(heat);
            }
        }
    }
}

/// Returns the direction from `b` to `a`, and the distance.
fn between(a: Point, b: Point) -> (Point, f64) {
    let way = [a[0] - b[0], a[1] - b[1]];
    let far = way[0].hypot(way[1]).max(0.01);
    ([way[0] / far, way[1] / far], far)
}

/// Moves overlapping boxes apart, along the shorter axis.
fn make_room(at: &mut [Point], sizes: &[[f64; 2]]) {
    for _ in 0..ROUNDS {
        let mut quiet = true;
        for a in 0..at.len() {
            for b in a + 1..at.len() {
                let need = |axis: usize| (sizes[a][axis] + sizes[b][axis]) / 2.0;
                let gap = |axis: usize| need(axis) - (at[a][axis] - at[b][axis]).abs();
                let [x, y] = [gap(0), gap(1)];
                if x <= 0.0 || y <= 0.0 {
                    continue;
                }
                quiet = false;
                let axis = usize::from(y < x);
                let half = (x.min(y) / 2.0 + 0.5).copysign(at[a][axis] - at[b][axis]);
                at[a][axis] += half;
                at[b][axis] -= half;
            }
        }
        if quiet {
            return;
        }
    }
}
