//! Tests of lines that are forged, old, malformed or too many.

use super::*;

/// T22: lines of third nodes do not change a neighbour's own statements.
#[test]
fn forged_lines_about_neighbours_and_ourselves_change_nothing() {
    let mut net = Net::new(settings(4));
    for other in 1..4 {
        net.join(0, other);
    }
    net.run(3 * SECOND);
    let before = (net.meshes[0].edges(), net.meshes[0].subnets());
    net.lines = 0;
    for nonce in 0..10_000 {
        let line = match nonce % 7 {
            0 => format!("13 {nonce:x} n1 n0"),
            1 => format!("11 {nonce:x} n1 10.0.0.1"),
            2 => format!("12 {nonce:x} n1 n0 192.0.2.9 655 700000c -2147483648"),
            3 => format!("13 {nonce:x} n0 n1"),
            4 => format!("10 {nonce:x} n1 10.0.0.2"),
            5 => format!("12 {nonce:x} n0 n2 192.0.2.9 655 700000c 2147483647"),
            _ => format!("14 {nonce:x} n1"),
        };
        sends(&mut net, 3, 0, &line);
    }
    assert_eq!(before, (net.meshes[0].edges(), net.meshes[0].subnets()));
    assert!(net.all_reach_all());
    assert!(net.lines < 200, "corrections are bounded: {}", net.lines);
}

/// T31: phantom nodes, edges and subnets stop at the caps. The offender is cut, the others stay.
#[test]
fn a_flood_of_phantoms_stops_at_the_caps() {
    let mut net = three();
    let mut cut = false;
    for n in 0..60_000 {
        let line = match n % 3 {
            0 => format!("12 {n:x} p{n} q{n} 192.0.2.1 655 700000c 1"),
            1 => format!(
                "10 {n:x} p{} 10.{}.{}.0/24",
                n % 500,
                n / 256 % 256,
                n % 256
            ),
            _ => format!("12 {n:x} p{} p{} 192.0.2.1 655 700000c 1", n % 500, n % 499),
        };
        if !net
            .wires
            .iter()
            .any(|((from, _), (to, _))| (*from, *to) == (2, 1))
        {
            cut = true;
            break;
        }
        sends(&mut net, 2, 1, &line);
        if n % 1_000 == 0 {
            net.run(SECOND / 2);
        }
    }
    let status = net.meshes[1].status();
    assert!(status.nodes <= 3 + crate::mesh::limits::MAX_UNKNOWN_PER_NEIGHBOUR);
    assert!(status.refused > 10_000 || cut);
    assert!(cut, "over its budget for ten seconds: cut");
    assert!(row(&net, 0, 1).up);
}

/// Real daemons store and flood names of up to 2,048 bytes: no reason to cut an honest link.
#[test]
fn a_name_too_long_for_us_costs_only_its_line() {
    let mut net = three();
    sends(
        &mut net,
        2,
        1,
        &format!("12 5 {} n2 192.0.2.1 655 700000c 1", "x".repeat(300)),
    );
    net.run(SECOND);
    assert!(row(&net, 1, 2).up);
    assert_eq!(net.meshes[1].status().refused, 1);
}

/// A line about a neighbour that arrives first by another path must not make the neighbour's own
/// copy count as seen.
#[test]
fn a_neighbours_own_word_counts_though_another_brought_the_same_line_before() {
    let mut net = three();
    net.join(0, 2);
    net.run(SECOND);
    let line = "10 5 n0 10.55.0.0/16";
    let held = |net: &Net| {
        net.meshes[1]
            .subnets()
            .iter()
            .any(|row| row.subnet.to_string() == "10.55.0.0/16")
    };
    sends(&mut net, 2, 1, line);
    assert!(!held(&net), "n0 is a neighbour: only it may say that");
    sends(&mut net, 0, 1, line);
    assert!(held(&net));
}

/// Old statements about a neighbour, from a node that was away: the neighbour's own statements win.
#[test]
fn old_news_about_a_neighbour_is_corrected_in_its_place() {
    let mut net = three();
    sends(&mut net, 2, 1, "12 77 n0 n9 192.0.2.1 655 700000c 1");
    sends(&mut net, 2, 1, "10 78 n0 10.77.0.0/16");
    net.lines = 0;
    net.run(6 * SECOND);
    let about = |net: &Net| net.meshes[1].edges().iter().any(|edge| edge.to == "n9");
    assert!(!about(&net));
    assert_eq!(
        net.lines, 2,
        "DEL_EDGE and DEL_SUBNET to the one that said it"
    );
}

#[test]
fn malformed_lines_close_only_the_link_that_they_came_from() {
    for line in ["", "x", "99", "4 655 1 c"] {
        let mut net = three();
        sends(&mut net, 2, 1, line);
        net.run(SECOND);
        assert!(!row(&net, 1, 2).up, "{line:?}");
        assert!(row(&net, 1, 0).up, "{line:?}");
    }
}
