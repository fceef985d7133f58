use meshd_api::why::Unknown;
use meshd_diagnose::Code;

use super::*;
use crate::escape::safe;

fn verdict(step: Finding) -> Verdict {
    Verdict {
        headline: "db…".into(),
        advice: step.remedy.clone(),
        steps: vec![
            Finding::new(Code::NameKnown, Step::Resolve, "db is known"),
            step,
        ],
    }
}

fn broken(text: &str) -> Verdict {
    verdict(Finding::new(Code::UdpNoReply, Step::UdpProbe, text).remedy("Do"))
}

#[test]
fn the_first_broken_step_decides_on_the_exit_code() {
    assert_eq!(exit(&broken("no reply")), Exit::Negative);
    let fine = verdict(Finding::new(Code::Idle, Step::UdpProbe, "not tried"));
    assert_eq!(exit(&fine), Exit::Fine);
    let unknown = why::unknown(
        "x",
        &Unknown {
            text: "there is no node".into(),
            remedy: "`meshctl peers`".into(),
        },
    );
    assert_eq!(exit(&unknown), Exit::Unknown);
}

#[test]
fn steps_are_marked_by_their_state_and_ascii_where_it_must_be() {
    let shown = lines(&broken("no reply"), true, false);
    assert_eq!(
        shown,
        [
            "db…",
            " ✓ name       db is known",
            " ✗ udp probe  no reply",
            " → Do"
        ]
    );
    assert!(
        lines(&broken("no reply…"), false, false)
            .join("")
            .is_ascii()
    );
}

#[test]
fn text_of_other_nodes_moves_no_cursor() {
    let verdict = broken("\u{1b}[2Jx\ny");
    let shown = lines(&verdict, true, false);
    assert!(shown.iter().all(|line| !line.contains(char::is_control)));
    let coloured = lines(&verdict, true, true);
    let painted = |line: &String| safe(line).contains("\u{1b}[31m✗\u{1b}[0m udp probe");
    assert!(coloured.iter().any(painted));
}
