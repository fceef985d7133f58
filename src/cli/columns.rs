//! Selects the columns of a table that fit on a terminal. A name or number is shown whole or not at all: a cut one
//! would read as a different value.

/// Width and rank of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// Its widest cell or its heading, in characters.
    pub(super) width: usize,
    /// Columns with a lower rank are kept longer; columns of rank 0 are never dropped.
    pub(super) rank: u8,
}

/// Rank of a sentence. A sentence fills the room that is left and is cut between words.
pub(super) const SENTENCE: u8 = u8::MAX;
/// Smallest width for a sentence.
const SENTENCE_ROOM: usize = 12;
/// Mark in place of the cut part of a sentence.
const MORE: &str = "...";

/// Returns the columns that fit into `room` characters with `gap` between them, in order, each with its width. Returns
/// `None` if the columns of rank 0 do not fit.
pub(super) fn fit(needs: &[Need], gap: usize, room: usize) -> Option<Vec<(usize, usize)>> {
    let mut by_rank: Vec<usize> = (0..needs.len()).collect();
    by_rank.sort_by_key(|at| needs[*at].rank);
    let (mut kept, mut used, mut full) = (Vec::new(), 0, false);
    for at in by_rank {
        let Need { width, rank } = needs[at];
        let before = used + if kept.is_empty() { 0 } else { gap };
        let left = room.saturating_sub(before);
        let width = match rank {
            SENTENCE if left >= SENTENCE_ROOM => width.min(left),
            _ => width,
        };
        match width <= left {
            true if !full || rank == SENTENCE => {
                kept.push((at, width));
                used = before + width;
            }
            _ if rank == 0 => return None,
            // Later columns have a lower value, so a narrow one does not take the room.
            _ => full = true,
        }
    }
    kept.sort_unstable();
    Some(kept)
}

/// Cuts a sentence to `room` characters, between words.
pub(super) fn shortened(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.into();
    }
    let mut out = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let width = word.chars().count() + usize::from(used > 0);
        if used + width + MORE.len() + 1 > room {
            break;
        }
        if used > 0 {
            out.push(' ');
        }
        out.push_str(word);
        used += width;
    }
    if used > 0 {
        out.push(' ');
    }
    out + MORE
}

/// Breaks text into lines of at most `room` characters, between words. A longer word gets its own line. All lines but
/// the first are indented.
pub(super) fn wrapped(text: &str, room: usize, indent: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one");
        let width = line.chars().count();
        let begins = line.trim().is_empty();
        if begins || width + 1 + word.chars().count() <= room {
            if !begins {
                line.push(' ');
            }
            line.push_str(word);
        } else {
            lines.push(" ".repeat(indent) + word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs() -> Vec<Need> {
        [(10, 0), (4, 0), (12, 3), (6, 1), (5, 2), (40, SENTENCE)]
            .map(|(width, rank)| Need { width, rank })
            .into()
    }

    #[test]
    fn columns_go_by_rank_and_are_never_narrowed() {
        for (room, wanted) in [
            (15, None),
            (16, Some(vec![(0, 10), (1, 4)])),
            (23, Some(vec![(0, 10), (1, 4)])),
            (24, Some(vec![(0, 10), (1, 4), (3, 6)])),
            (31, Some(vec![(0, 10), (1, 4), (3, 6), (4, 5)])),
            (45, Some(vec![(0, 10), (1, 4), (2, 12), (3, 6), (4, 5)])),
            (
                59,
                Some(vec![(0, 10), (1, 4), (2, 12), (3, 6), (4, 5), (5, 12)]),
            ),
            (
                200,
                Some(vec![(0, 10), (1, 4), (2, 12), (3, 6), (4, 5), (5, 40)]),
            ),
        ] {
            assert_eq!(fit(&needs(), 2, room), wanted, "{room}");
        }
    }

    #[test]
    fn sentences_are_cut_and_broken_between_words() {
        let text = "no Address in hosts/web_09";
        assert_eq!(shortened(text, 26), text);
        assert_eq!(shortened(text, 25), "no Address in ...");
        assert_eq!(shortened(text, 12), "no ...");
        assert_eq!(shortened(text, 3), "...");
        assert_eq!(wrapped(text, 16, 4), ["no Address in", "    hosts/web_09"]);
        assert_eq!(wrapped(text, 3, 0), ["no", "Address", "in", "hosts/web_09"]);
    }
}
