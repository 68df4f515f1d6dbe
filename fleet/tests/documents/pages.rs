//! The project's pages as files of Markdown: what is code in them and what isn't.

#![allow(dead_code, unreachable_pub, reason = "included by the tests of two crates, each of which uses its part of it")]

use std::path::{Path, PathBuf};

/// The folder of the repository.
pub fn repository() -> PathBuf {
    std::fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).unwrap()
}

/// One file.
pub struct Page {
    /// As seen from the repository: `docs/fleet.md`.
    pub name: String,
    pub text: String,
}

/// A fenced block of code.
#[derive(Debug, PartialEq)]
pub struct Block {
    /// `sh`, `toml`, …; empty if none is named.
    pub language: String,
    /// The line of its first line, from 1.
    pub line: usize,
    pub lines: Vec<String>,
}

/// Every page: those in `docs`, decisions included, and those at the root.
pub fn all() -> Vec<Page> {
    let root = repository();
    let mut names: Vec<String> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md"].iter().map(|name| (*name).to_owned()).collect();
    for folder in ["docs", "docs/adr"] {
        for file in std::fs::read_dir(root.join(folder)).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if Path::new(&name).extension().is_some_and(|ext| ext == "md") {
                names.push(format!("{folder}/{name}"));
            }
        }
    }
    names.sort();
    assert!(names.len() > 30, "the pages weren't found: {names:?}");
    let text = |name: &String| std::fs::read_to_string(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    names.into_iter().map(|name| Page { text: text(&name), name }).collect()
}

impl Page {
    /// Its blocks of code, from the top.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in (1..).zip(self.text.lines()) {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    let language = language.split([' ', ',']).next().unwrap_or_default().to_owned();
                    open = Some(Block { language, line: number + 1, lines: Vec::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => block.lines.push(line.to_owned()),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block of code isn't closed", self.name);
        blocks
    }

    /// Its text without blocks of code, line by line with their numbers from 1.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        let mut inside = false;
        let mut prose = Vec::new();
        for (number, line) in (1..).zip(self.text.lines()) {
            if line.trim_start().starts_with("```") {
                inside = !inside;
            } else if !inside {
                prose.push((number, line));
            }
        }
        prose
    }

    /// The names by which its headings can be linked to.
    pub fn anchors(&self) -> Vec<String> {
        let mut anchors: Vec<String> = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for (_, line) in self.prose() {
            let Some(heading) = line.strip_prefix('#') else { continue };
            let heading = heading.trim_start_matches('#').trim();
            let mut name = String::new();
            for c in heading.chars() {
                match c {
                    ' ' => name.push('-'),
                    '-' | '_' => name.push(c),
                    c if c.is_alphanumeric() => name.extend(c.to_lowercase()),
                    _ => {}
                }
            }
            let same = seen.iter().filter(|other| **other == name).count();
            anchors.push(if same > 0 { format!("{name}-{same}") } else { name.clone() });
            seen.push(name);
        }
        anchors
    }
}

/// What stands between backticks in a line.
pub fn spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// A line without what stands between backticks.
pub fn without_spans(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("``")
}

#[test]
fn blocks_prose_and_anchors_are_told_apart() {
    let text =
        "# A `b`: c_d\ntext `x`\n- item\n  ```sh\n  run\n  ```\n```\n# no heading\n```\n## A b c_d\n# A b: c_d\n";
    let page = Page { name: "p.md".into(), text: text.into() };
    assert_eq!(page.anchors(), ["a-b-c_d", "a-b-c_d-1", "a-b-c_d-2"]);
    let blocks = page.blocks();
    assert_eq!((blocks[0].language.as_str(), blocks[0].line, blocks[0].lines[0].as_str()), ("sh", 5, "  run"));
    assert_eq!((blocks[1].language.as_str(), blocks[1].lines.len()), ("", 1));
    assert_eq!(spans("a `b` c `d`"), ["b", "d"]);
    assert_eq!(without_spans("a `[b](c)` d"), "a `` d");
}
