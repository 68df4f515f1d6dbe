//! Command lines of pages, taken apart as a shell would, as far as pages need it.

#![allow(dead_code, unreachable_pub, reason = "included by the tests of two crates, each of which uses its part of it")]

use crate::pages::{Block, Page};

/// One command of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Where it is: `docs/fleet.md:21`.
    pub at: String,
    /// Program and arguments, without quotes, assignments before them and redirections after them.
    pub words: Vec<String>,
    /// The exit code that the page states below it.
    pub code: i32,
}

impl Command {
    /// Its program's name without a folder.
    pub fn program(&self) -> &str {
        self.words[0].rsplit('/').next().unwrap_or_default()
    }

    pub fn line(&self) -> String {
        self.words.join(" ")
    }
}

/// The three programs.
pub const OURS: [&str; 3] = ["ebbtide", "ebbtide-agent", "ebbtide-fleet"];

/// The commands of a page. In `sh` every line is one; in `console` those after `$` or `#`, and in a block without a
/// language those after `$` or that begin with a program of ours or with make; the rest is what was printed.
pub fn commands(page: &Page) -> Vec<Command> {
    page.blocks().iter().flat_map(|block| in_block(&page.name, block)).collect()
}

fn in_block(name: &str, block: &Block) -> Vec<Command> {
    let prompted = block.lines.iter().any(|line| line.trim_start().starts_with("$ "));
    let ours = |line: &str| {
        let mut words = line.split(' ');
        let program = words.next().unwrap_or_default();
        (OURS.contains(&program) || program == "make")
            && words.next().is_some_and(|word| word.starts_with(|c: char| c.is_ascii_lowercase() || c == '-'))
    };
    let typed = |line: &str| -> Option<String> {
        let line = line.trim_start();
        let told = match block.language.as_str() {
            "sh" | "bash" | "shell" => Some(line),
            // the head of a table may begin with `#`, too
            "console" => {
                line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ").filter(|text| !text.starts_with(' ')))
            }
            "" | "text" if prompted => line.strip_prefix("$ "),
            "" | "text" => Some(line).filter(|line| ours(line)),
            _ => None,
        };
        told.map(str::to_owned)
    };
    let mut commands: Vec<Command> = Vec::new();
    let mut lines = (block.line..).zip(&block.lines).peekable();
    while let Some((number, line)) = lines.next() {
        let Some(mut text) = typed(line) else {
            if let (Some(code), Some(last)) = (stated(line), commands.last_mut()) {
                last.code = code;
            }
            continue;
        };
        // a command goes on after a backslash, and while a quote or a bracket is open
        while text.ends_with('\\') || taken_apart(&text).is_none() {
            let Some((_, more)) = lines.next() else { panic!("{name}:{number}: the command doesn't end: {text}") };
            let more = more.trim_start().trim_start_matches("> ");
            text = match text.strip_suffix('\\') {
                Some(text) => format!("{text} {more}"),
                None => format!("{text}\n{more}"),
            };
        }
        let at = format!("{name}:{number}");
        let taken = taken_apart(&text).expect("it ends");
        // what follows `<<WORD` is text, up to that word
        for end in &taken.documents {
            while lines.next().is_some_and(|(_, line)| line.trim() != end) {}
        }
        commands.extend(taken.simple.into_iter().map(|words| Command { at: at.clone(), words, code: 0 }));
    }
    commands
}

/// The code in `exit 3` at the end of what was printed.
fn stated(line: &str) -> Option<i32> {
    line.rsplit_once("exit ").filter(|(before, _)| before.is_empty() || before.ends_with("· "))?.1.trim().parse().ok()
}

#[derive(Debug, Default, PartialEq)]
struct Taken {
    /// The commands between `;`, `|`, `&&` and `||`.
    simple: Vec<Vec<String>>,
    /// Words that end documents that follow.
    documents: Vec<String>,
}

/// None if a quote or a bracket is open at the end.
fn taken_apart(text: &str) -> Option<Taken> {
    let mut taken = Taken::default();
    let (mut words, mut word): (Vec<String>, Option<String>) = (Vec::new(), None);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => word.extend(chars.next()),
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '$' if matches!(chars.peek(), Some('(' | '{')) => {
                let word = word.get_or_insert_default();
                word.push('$');
                let mut depth = 0;
                loop {
                    let c = chars.next()?;
                    depth += i32::from(matches!(c, '(' | '{')) - i32::from(matches!(c, ')' | '}'));
                    word.push(c);
                    if depth == 0 {
                        break;
                    }
                }
            }
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            ';' | '|' | '&' | '\n' => {
                while chars.next_if(|c| matches!(c, '|' | '&')).is_some() {}
                words.extend(word.take());
                taken.simple.push(std::mem::take(&mut words));
            }
            ' ' | '\t' => words.extend(word.take()),
            '<' | '>' => {
                // `2>`: the number belongs to it
                words.extend(word.take().filter(|word| word.parse::<u8>().is_err()));
                let mut sign = c.to_string();
                while let Some(c) = chars.next_if(|c| matches!(c, '<' | '>' | '&' | '-')) {
                    sign.push(c);
                }
                while chars.next_if_eq(&' ').is_some() {}
                let mut target = String::new();
                while let Some(c) = chars.next_if(|c| !matches!(c, ' ' | ';' | '|' | '\n')) {
                    target.push(c);
                }
                if sign.starts_with("<<") {
                    taken.documents.push(target.trim_matches(['\'', '"']).to_owned());
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    taken.simple.push(words);
    for words in &mut taken.simple {
        // what is set for a command, and by whose rights it runs
        let assigned = |word: &String| {
            word.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            })
        };
        let from = words.iter().take_while(|word| assigned(word) || *word == "sudo").count();
        words.drain(..from);
    }
    taken.simple.retain(|words| !words.is_empty());
    Some(taken)
}

#[test]
fn command_lines_are_taken_apart() {
    let simple = |text: &str| taken_apart(text).map(|taken| taken.simple);
    let words = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        simple("A=1 sudo ebbtide lock n --why 'a b' ; b \"c \\\" d\" | e && f 2>/dev/null # g"),
        Some(vec![
            words(&["ebbtide", "lock", "n", "--why", "a b"]),
            words(&["b", "c \" d"]),
            words(&["e"]),
            words(&["f"])
        ])
    );
    assert_eq!(
        simple("x --key=v \"$(a 'b c')\" ${D}/f > out"),
        Some(vec![words(&["x", "--key=v", "$(a 'b c')", "${D}/f"])])
    );
    assert_eq!((simple("a 'b"), simple("# only a comment")), (None, Some(Vec::new())));
}

#[test]
fn commands_are_told_from_what_they_print() {
    let page = |text: &str| Page { name: "p.md".into(), text: text.into() };
    let found =
        |text: &str| commands(&page(text)).into_iter().map(|c| (c.at.clone(), c.line(), c.code)).collect::<Vec<_>>();
    let is = |line: usize, text: &str, code| (format!("p.md:{line}"), text.to_owned(), code);
    assert_eq!(
        found("```console\n$ ebbtide x \\\n    -y\nebbtide nodes\n2 wrong · exit 3\n#  WHAT\n# z\n```"),
        [is(2, "ebbtide x -y", 3), is(7, "z", 0)]
    );
    assert_eq!(
        found("```\nebbtide · vm\nebbtide nodes\nmake up\nmake it so.\n```"),
        [is(3, "ebbtide nodes", 0), is(4, "make up", 0), is(5, "make it so.", 0)]
    );
    assert_eq!(found("```sh\ncat > f <<'EOF'\nebbtide what\nEOF\nmv a b\n```"), [is(2, "cat", 0), is(5, "mv a b", 0)]);
    assert_eq!(found("```toml\na = 1\n```\n```\n$ a\nebbtide nodes\n```"), [is(5, "a", 0)]);
}
