//! The example for Terraform, without Terraform: its validate wants a provider from a registry.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use hcl_edit::{
    expr::{ForIntro, FuncCall, Traversal, TraversalOperator},
    structure::{Block, Body},
    visit::{Visit, visit_block, visit_for_intro, visit_func_call, visit_traversal},
};

use crate::ROOT;

/// Names that Terraform itself defines.
const ITS_OWN: [&str; 2] = ["each", "path"];

/// Names that a file declares, and names that it uses.
#[derive(Default)]
struct Names {
    /// `var.NAME` and `TYPE.NAME`.
    declared: BTreeSet<String>,
    /// Names that a loop gives to its iterations.
    turns: BTreeSet<String>,
    /// The first two words of each `a.b.c`.
    used: BTreeSet<String>,
    /// Template files and the names that they are given.
    templates: Vec<(String, BTreeSet<String>)>,
}

impl Visit for Names {
    fn visit_block(&mut self, block: &Block) {
        let labels: Vec<&str> = block.labels.iter().map(|label| label.as_str()).collect();
        match (block.ident.as_str(), &labels[..]) {
            ("variable", [name]) => drop(self.declared.insert(format!("var.{name}"))),
            ("resource", [kind, name]) => drop(self.declared.insert(format!("{kind}.{name}"))),
            ("dynamic", [name]) => drop(self.turns.insert((*name).to_owned())),
            ("terraform" | "required_providers" | "lifecycle" | "content", []) => {}
            ("inbound_rule" | "outbound_rule", []) | ("output", [_]) => {}
            other => panic!("{other:?}: Terraform has no such block here"),
        }
        visit_block(self, block);
    }

    fn visit_for_intro(&mut self, intro: &ForIntro) {
        let names = intro.key_var.iter().chain([&intro.value_var]);
        self.turns
            .extend(names.map(|name| name.as_str().to_owned()));
        visit_for_intro(self, intro);
    }

    fn visit_traversal(&mut self, traversal: &Traversal) {
        let root = traversal.expr.as_variable().expect("all begin with a name");
        let first = traversal.operators.first().map(|operator| operator.value());
        let Some(TraversalOperator::GetAttr(name)) = first else {
            panic!("{root} is asked for something without a name");
        };
        self.used.insert(format!("{root}.{}", name.as_str()));
        visit_traversal(self, traversal);
    }

    fn visit_func_call(&mut self, call: &FuncCall) {
        if call.name.name.as_str() == "templatefile" {
            let arguments: Vec<_> = call.args.iter().collect();
            let file = arguments[0].as_string_template().expect("a path");
            let file = file.to_string();
            let path = file.trim_matches(['"', ' ']).replace("${path.module}/", "");
            let given = arguments[1].as_object().expect("names and values");
            let names = given.iter().map(|(name, _)| {
                let name = name.as_ident().expect("a plain name");
                name.as_str().to_owned()
            });
            self.templates.push((path, names.collect()));
        }
        visit_func_call(self, call);
    }
}

/// The names in `${…}`.
fn placeholders(text: &str) -> BTreeSet<String> {
    let starts = text.split("${").skip(1);
    let names = starts.map(|rest| rest.split('}').next().expect("the first part"));
    names.map(str::to_owned).collect()
}

fn dir() -> PathBuf {
    Path::new(ROOT).join("packaging/terraform")
}

/// Every used name is declared, every declared name is used, and the template gets the values that it needs.
#[test]
fn the_example_for_terraform_is_sound() {
    let text = fs::read_to_string(dir().join("main.tf")).expect("it is there");
    let body: Body = text.parse().unwrap_or_else(|error| panic!("{error}"));
    let mut names = Names::default();
    names.visit_body(&body);
    assert!(names.declared.len() >= 7, "{:?}", names.declared);
    let free = |name: &String| {
        let root = name.split('.').next().expect("the first part");
        ITS_OWN.contains(&root) || names.turns.contains(root)
    };
    let used: BTreeSet<_> = names.used.iter().filter(|name| !free(name)).collect();
    let unknown: Vec<_> = used
        .iter()
        .filter(|name| !names.declared.contains(**name))
        .collect();
    assert!(unknown.is_empty(), "nobody declares {unknown:?}");
    let mut variables = names
        .declared
        .iter()
        .filter(|name| name.starts_with("var."));
    assert!(variables.all(|name| used.contains(name)), "{used:?}");
    assert_eq!(names.templates.len(), 1);
    for (file, given) in names.templates {
        let text = fs::read_to_string(dir().join(&file)).expect("the template is there");
        assert_eq!(placeholders(&text), given, "{file}");
    }
}
