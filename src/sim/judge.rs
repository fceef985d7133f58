//! Invariants of a mesh in which some nodes are hostile: the honest nodes agree on all that honest
//! nodes say of themselves, and say no more than the law of belief lets them.

use std::collections::BTreeSet;

use crate::{plan, world::World};

/// Lines that a node sent to its neighbours, over all of its links and lives.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// Number of lines.
    pub lines: u64,
    /// Bytes of these lines.
    pub bytes: u64,
}

impl Said {
    pub(super) fn add(&mut self, length: usize) {
        self.lines += 1;
        self.bytes += length as u64;
    }
}

/// View of a node: what honest nodes say of themselves, and who is reachable.
#[derive(PartialEq, Eq)]
struct View {
    edges: BTreeSet<(String, String, i32)>,
    subnets: BTreeSet<(String, String)>,
    reachable: BTreeSet<String>,
}

impl World {
    /// Returns the lines that a node sent so far.
    #[must_use]
    pub fn said(&self, node: usize) -> Said {
        self.said[node]
    }

    /// Returns the honest nodes that run.
    #[must_use]
    pub fn honest(&self) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|node| self.nodes[*node].alive && !self.hostile.contains(node))
            .collect()
    }

    /// Returns the first difference between the views of honest nodes, if there is one. All of them
    /// must reach each other.
    #[must_use]
    pub fn difference(&self) -> Option<String> {
        let honest = self.honest();
        let views: Vec<View> = honest.iter().map(|node| self.view(*node)).collect();
        let (first, names) = (views.first()?, self.names(&honest));
        for (node, view) in honest.iter().zip(&views) {
            let me = format!("n{node}");
            if view.reachable != names {
                let missing: Vec<_> = names.difference(&view.reachable).collect();
                return Some(format!("{me} does not reach {missing:?}"));
            }
            let (mine, other) = (&view.edges, &first.edges);
            if mine != other {
                let (more, less): (Vec<_>, Vec<_>) = (
                    mine.difference(other).collect(),
                    other.difference(mine).collect(),
                );
                let of = honest[0];
                return Some(format!(
                    "{me} knows the edges {more:?} that n{of} does not, and lacks {less:?}"
                ));
            }
            if view.subnets != first.subnets {
                let both: Vec<_> = view.subnets.symmetric_difference(&first.subnets).collect();
                return Some(format!("{me} and n{} differ in {both:?}", honest[0]));
            }
        }
        None
    }

    fn names(&self, nodes: &[usize]) -> BTreeSet<String> {
        let names = nodes.iter().map(|node| plan::name(*node).to_string());
        names.collect()
    }

    fn view(&self, node: usize) -> View {
        let honest = self.names(&self.honest());
        let mesh = &self.nodes[node].mesh;
        let edges = mesh.edges().into_iter();
        let subnets = mesh.subnets().into_iter();
        let rows = mesh.nodes(self.now).into_iter();
        View {
            edges: edges
                .filter(|row| honest.contains(&row.from) && honest.contains(&row.to))
                .map(|row| (row.from, row.to, row.weight))
                .collect(),
            subnets: subnets
                .filter_map(|row| Some((row.owner?, row.subnet.to_string())))
                .filter(|(owner, _)| honest.contains(owner))
                .collect(),
            reachable: rows
                .filter(|row| row.distance >= 0 && honest.contains(&row.name))
                .map(|row| row.name)
                .collect(),
        }
    }

    /// Returns the number of links of a node that are up.
    #[must_use]
    pub fn links(&self, node: usize) -> usize {
        let links = self.nodes[node].links.values();
        links.filter(|link| link.up).count()
    }
}
