//! Every document that a comment cites is in the tree, with the section or the number that is cited.
//!
//! A citation is `proto/threat-model.md section 4`, or a bare T36, X17 or P4. A path counts from the top of the
//! repository, from `src/`, or from the folder of the file that cites it. In a document, `section 4` alone is one of
//! its own, unless a number of an RFC stands before it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

/// Folders and files of the repository that are read.
const SOURCES: [&str; 6] = [
    "src",
    "tests",
    "benches",
    "packaging",
    "CONTRIBUTING.md",
    "README.md",
];
/// Defines the numbers of attacks, faults and properties.
const NUMBERS: &str = "src/proto/threat-model.md";
/// This file breaks citations on purpose.
const OURSELVES: &str = "tests/citations.rs";

/// Targets of citations.
#[derive(Default)]
struct Known {
    /// Documents by their path from the top, with the numbers of their sections.
    documents: BTreeMap<PathBuf, BTreeSet<String>>,
    /// `T01`, `X1`, `P1` and so on.
    numbers: BTreeSet<String>,
}

/// A word of prose: a longest run of characters that paths and numbers are made of.
#[derive(Debug, PartialEq, Eq)]
struct Word<'a> {
    text: &'a str,
    line: usize,
    /// True if a comma or nothing but blanks stands between this word and the next one.
    goes_on: bool,
}

impl Known {
    fn add(&mut self, path: &Path, text: &str) {
        let sections = outside_of_code(text).filter_map(|(_, line)| section_of(line));
        self.documents
            .insert(path.to_owned(), sections.map(str::to_owned).collect());
        if path == Path::new(NUMBERS) {
            let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
            let first = rows.filter_map(|row| row.split(" |").next());
            self.numbers
                .extend(first.filter(|word| is_number(word)).map(str::to_owned));
        }
    }

    /// The document that `cited` means in a file of the folder `from`.
    fn document(&self, cited: &str, from: &Path) -> Option<&BTreeSet<String>> {
        let places = [Path::new(""), Path::new("src"), from];
        let paths = places.map(|place| plain(&place.join(cited)));
        paths.iter().find_map(|path| self.documents.get(path))
    }

    /// Every broken citation of a file, as `file:line: what is wrong`.
    fn broken(&self, file: &Path, text: &str) -> Vec<String> {
        let prose = prose(file, text);
        let words: Vec<Word<'_>> = prose
            .iter()
            .flat_map(|(line, text)| words(*line, text))
            .collect();
        let mut broken = Vec::new();
        let mut complain = |line: usize, what: String| {
            broken.push(format!("{}:{line}: {what}", file.display()));
        };
        let from = file.parent().unwrap_or_else(|| Path::new(""));
        let own = self
            .documents
            .get(file)
            .filter(|sections| !sections.is_empty());
        for (at, word) in words.iter().enumerate() {
            if word.text.starts_with("spec/") || word.text.contains("/spec/") {
                complain(word.line, format!("{} is not in a clone", word.text));
            } else if is_document(word.text) {
                let Some(sections) = self.document(word.text, from) else {
                    complain(word.line, format!("{} is not in the tree", word.text));
                    continue;
                };
                for (line, section) in sections_after(&words[at + 1..]) {
                    if !sections.contains(section) {
                        complain(line, format!("{} has no section {section}", word.text));
                    }
                }
            } else if let Some(own) = own.filter(|_| !follows_a_title(&words[..at])) {
                for (line, section) in sections_after(&words[at..]) {
                    if !own.contains(section) {
                        complain(line, format!("there is no section {section} here"));
                    }
                }
            } else if is_rust(file) && is_number(word.text) && !self.numbers.contains(word.text) {
                complain(word.line, format!("{} is not in {NUMBERS}", word.text));
            }
        }
        if is_rust(file) {
            for (line, number) in numbers_of_tests(text) {
                if !self.numbers.contains(&number) {
                    complain(line, format!("{number} is not in {NUMBERS}"));
                }
            }
        }
        broken
    }
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else if part != Component::CurDir {
            plain.push(part);
        }
    }
    plain
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|of| of == extension)
}

fn is_rust(file: &Path) -> bool {
    has_extension(file, "rs")
}

/// True if a word is the path of a document in the repository; links into the web begin with `//`.
fn is_document(word: &str) -> bool {
    let stem = word.strip_suffix(".md").unwrap_or_default();
    !stem.is_empty() && !stem.ends_with(['/', '*']) && !stem.starts_with("//")
}

/// True if a word is the number of an attack (two digits), a fault or a property (one or two).
fn is_number(word: &str) -> bool {
    let digits = word.get(1..).unwrap_or_default();
    let count = match word.as_bytes().first() {
        Some(b'T') => 2..=2,
        Some(b'X' | b'P') => 1..=2,
        _ => return false,
    };
    count.contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// The lines of a Markdown text that are in no fenced block, with their numbers.
fn outside_of_code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// The number of the section that a line of Markdown begins: `2.1` of `### 2.1 Title` and of `### 2.1. Title`.
fn section_of(line: &str) -> Option<&str> {
    let title = line.trim_start_matches('#');
    let first = title.split_whitespace().next()?.trim_end_matches('.');
    (title.len() < line.len() && is_section(first)).then_some(first)
}

fn is_section(word: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    word.split('.').all(is_part)
}

/// The prose of a file, with line numbers: comments of code, and all of a document but its code.
fn prose<'a>(file: &Path, text: &'a str) -> Vec<(usize, &'a str)> {
    if has_extension(file, "md") {
        return outside_of_code(text).collect();
    }
    let comment = |line: &'a str| match is_rust(file) {
        true => line.split_once("//").map(|(_, comment)| comment),
        false => line.trim_start().strip_prefix('#'),
    };
    let lines = (1..).zip(text.lines());
    lines
        .filter_map(|(number, line)| Some((number, comment(line)?)))
        .collect()
}

fn words(line: usize, text: &str) -> Vec<Word<'_>> {
    let is_inside = |c: char| c.is_alphanumeric() || "._/-*".contains(c);
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(['/', '!']);
    while let Some(start) = rest.find(is_inside) {
        let tail = &rest[start..];
        let end = tail.find(|c| !is_inside(c)).unwrap_or(tail.len());
        let (run, after) = tail.split_at(end);
        let between = after.split(is_inside).next().unwrap_or_default();
        let text = run.trim_end_matches('.');
        if !text.is_empty() {
            words.push(Word {
                text,
                line,
                goes_on: text.len() == run.len() && matches!(between.trim(), "" | "," | "`"),
            });
        }
        rest = after;
    }
    words
}

/// The sections that are cited by the words behind a document: `section 2.1`, `sections 1, 2 and 4 to 6`. Of a range
/// both ends count.
fn sections_after<'a>(words: &[Word<'a>]) -> Vec<(usize, &'a str)> {
    let mut words = words.iter();
    let many = match words.next().map(|word| word.text) {
        Some("section") => false,
        Some("sections") => true,
        _ => return Vec::new(),
    };
    let mut sections = Vec::new();
    for word in words {
        let joins = matches!(word.text, "and" | "to") && !sections.is_empty();
        if is_section(word.text) {
            sections.push((word.line, word.text));
        } else if !joins {
            break;
        }
        if !word.goes_on || !many {
            break;
        }
    }
    sections
}

/// True if these words end with a document or an RFC; the next word then gives its section.
fn follows_a_title(words: &[Word<'_>]) -> bool {
    match words {
        [.., last] if is_document(last.text) => true,
        [.., rfc, _] => rfc.text == "RFC",
        _ => false,
    }
}

/// Numbers in the names of tests, such as T36 of `t36_slow_loris`, and the lines of these names.
fn numbers_of_tests(text: &str) -> Vec<(usize, String)> {
    let mut numbers = Vec::new();
    let mut is_test = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.starts_with("#[") {
            is_test |= line == "#[test]";
        } else if let Some(name) = line.strip_prefix("fn ") {
            let first = name.split('_').next().unwrap_or_default();
            let first = first.to_ascii_uppercase();
            if is_test && is_number(&first) {
                numbers.push((number, first));
            }
            is_test = false;
        }
    }
    numbers
}

/// All files below a path, itself if it is one, by name. Names that begin with a dot are passed over.
fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if !path.is_dir() {
        return found.push(path.to_owned());
    }
    for entry in fs::read_dir(path).expect("a folder of the repository") {
        let entry = entry.expect("a folder of the repository");
        if !entry.file_name().to_string_lossy().starts_with('.') {
            files(&entry.path(), found);
        }
    }
}

#[test]
fn every_citation_leads_somewhere() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![top.join("CHANGELOG.md")];
    for source in SOURCES {
        files(&top.join(source), &mut paths);
    }
    paths.sort();
    let mut known = Known::default();
    let mut texts = Vec::new();
    for path in paths {
        // What is not text has no comments.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let path = path.strip_prefix(top).unwrap().to_owned();
        if has_extension(&path, "md") {
            known.add(&path, &text);
        }
        texts.push((path, text));
    }
    assert!(known.numbers.len() > 60, "{NUMBERS} defines its numbers");
    let texts = texts.iter();
    let texts = texts.filter(|(path, _)| path != Path::new(OURSELVES));
    let broken: Vec<String> = texts
        .flat_map(|(path, text)| known.broken(path, text))
        .collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

fn known() -> Known {
    let mut known = Known::default();
    let model = "## 0. Rules\n### 2.1 Attacks\n| T | attack |\n| T07 | keys |\n| X17 | a way |\n```text\n## 9 code\n```\n";
    known.add(Path::new(NUMBERS), model);
    known.add(
        Path::new("tests/vectors/NOTES.md"),
        "# Notes\n## 4\n## 5\n## 6\n",
    );
    known
}

#[test]
fn sound_citations_are_no_faults() {
    let text = "\
//! Source: proto/threat-model.md section 2.1, T07 of proto/threat-model.md, RFC 9 section 7, https://a.example/b.md.
//! In two lines: `proto/threat-model.md`
//! sections 0 and 2.1. Section 9 of something else. Files like *.md; X25519, P256, T1, PTX17.
fn f() {} // tests/vectors/NOTES.md sections 4 to 6. 8 times
#[test]
fn t07_keys() {}
#[test]
#[ignore = \"slow\"]
fn x17_way() {}
fn t99_is_no_test() {}
const S: &str = \"spec/a.md\";
";
    let broken = known().broken(Path::new("src/a.rs"), text);
    assert!(broken.is_empty(), "{broken:#?}");
    let text = "See [notes](NOTES.md) and ../../src/proto/threat-model.md section 2.1 (T99).\n```\nspec/a.md\n```\n";
    let broken = known().broken(Path::new("tests/vectors/b.md"), text);
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn broken_citations_are_found_with_their_lines() {
    let text = "\
//! Source: proto/threat-model.md section 2.2, and T08 of it.
//! Source: spec/security.md T07.
//! Source: NOTES.md section 4; proto/threat-model.md
//! section 9.
let a = b; // X18, P1
#[test]
fn t36_loris() {}
";
    let broken = known().broken(Path::new("src/a.rs"), text);
    assert_eq!(
        broken,
        [
            "src/a.rs:1: proto/threat-model.md has no section 2.2",
            "src/a.rs:1: T08 is not in src/proto/threat-model.md",
            "src/a.rs:2: spec/security.md is not in a clone",
            "src/a.rs:3: NOTES.md is not in the tree",
            "src/a.rs:4: proto/threat-model.md has no section 9",
            "src/a.rs:5: X18 is not in src/proto/threat-model.md",
            "src/a.rs:5: P1 is not in src/proto/threat-model.md",
            "src/a.rs:7: T36 is not in src/proto/threat-model.md",
        ]
    );
    let text = "As section 4 says, RFC 9 section 7, and section 8.\n";
    let notes = Path::new("tests/vectors/NOTES.md");
    assert_eq!(
        known().broken(notes, text),
        ["tests/vectors/NOTES.md:1: there is no section 8 here"]
    );
    let text = "# As tests/vectors/NOTES.md sections 4, 5 and 7 say.\nspec/b.md\n";
    let broken = known().broken(Path::new("tests/run"), text);
    assert_eq!(
        broken,
        ["tests/run:1: tests/vectors/NOTES.md has no section 7"]
    );
}

/// Lists the faults of 30 November 2026 with their tests.
const FAULTS: &str = "tests/faults.md";

/// Cells of the table rows of a document.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    rows.map(|row| row.split(" |").map(str::trim).collect())
        .collect()
}

/// Returns the error in the row of a fault: a test that is not in its file, or no test and no word about it.
fn faults_of_row(row: &[&str], read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let [fault, _, tests, seen, ..] = row else {
        return vec![format!("{row:?} has too few cells")];
    };
    let cited: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
    let mut wrong = Vec::new();
    match (cited.is_empty(), *tests == "open") {
        (true, false) => wrong.push(format!("{fault} has no test")),
        (false, _)
            if !["80ebb4a", "8f831ca", "broken"]
                .iter()
                .any(|word| seen.contains(word)) =>
        {
            wrong.push(format!("{fault} was seen to fail nowhere"));
        }
        _ => {}
    }
    for test in cited {
        let Some((file, name)) = test.split_once(' ') else {
            wrong.push(format!("{fault}: {test} is not FILE NAME"));
            continue;
        };
        let Some(text) = read(file) else {
            wrong.push(format!("{fault}: there is no {file}"));
            continue;
        };
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let function = [format!("fn {name}("), format!("async fn {name}(")];
        let at = lines
            .iter()
            .position(|line| function.iter().any(|f| line.starts_with(f.as_str())));
        let is_test = at.is_some_and(|at| {
            let above = lines[..at]
                .iter()
                .rev()
                .take_while(|line| line.starts_with("#["));
            above.into_iter().any(|line| line.contains("test"))
        });
        if !is_test {
            wrong.push(format!("{fault}: {file} has no test {name}"));
        }
    }
    wrong
}

#[test]
fn every_fault_names_tests_of_the_tree() {
    let text = fs::read_to_string(FAULTS).unwrap();
    let rows: Vec<_> = rows(&text)
        .into_iter()
        .filter(|row| is_fault(row[0]))
        .collect();
    let named: Vec<_> = rows.iter().map(|row| row[0].to_owned()).collect();
    let a = (1..=15).map(|n| format!("A{n}"));
    let all: Vec<_> = a.chain((1..=18).map(|n| format!("B{n}"))).collect();
    assert_eq!(named, all);
    let read = |file: &str| fs::read_to_string(file).ok();
    let wrong: Vec<_> = rows
        .iter()
        .flat_map(|row| faults_of_row(row, read))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn is_fault(word: &str) -> bool {
    let number = word.strip_prefix(['A', 'B']).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
}

#[test]
fn a_renamed_test_of_a_fault_is_found() {
    let read = |file: &str| {
        let text = "#[test]\n#[ignore]\nfn holds() {}\nfn helper() {}\n#[tokio::test]\nasync fn waits() {}\n";
        (file == "a.rs").then(|| text.to_owned())
    };
    let row = |tests| ["A1", "it holds", tests, "80ebb4a test"];
    assert!(faults_of_row(&row("`a.rs holds`, `a.rs waits`"), read).is_empty());
    assert!(faults_of_row(&["B5", "it holds", "open", "-"], read).is_empty());
    for (tests, wrong) in [
        ("", "A1 has no test"),
        ("`a.rs held`", "A1: a.rs has no test held"),
        ("`a.rs helper`", "A1: a.rs has no test helper"),
        ("`b.rs holds`", "A1: there is no b.rs"),
        ("`a.rs`", "A1: a.rs is not FILE NAME"),
    ] {
        assert_eq!(faults_of_row(&row(tests), read), [wrong]);
    }
    let unseen = ["A1", "it holds", "`a.rs holds`", "-"];
    assert_eq!(
        faults_of_row(&unseen, read),
        ["A1 was seen to fail nowhere"]
    );
}
