//! Manual pages out of a program's command line: one for the program, one for each of its commands.
//!
//! What help prints after the options becomes sections. A line `Files:` with indented lines under it is the section
//! FILES, printed as it stands; `Exit codes: 0 ok, …` is the section EXIT STATUS, as text. Anything else is a note.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// Writes the pages of `program` into `folder`, which is made; `more` is added to what its help says at the end.
///
/// # Errors
/// If a file can't be written.
pub fn write(program: Command, more: &str, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let source = format!("{} {}", program.get_name(), program.get_version().unwrap_or_default());
    page(&program, None, &source, more, folder)
}

/// Writes the page of `command` and of those below it. `above` is the page of the command that it belongs to.
fn page(command: &Command, above: Option<&str>, source: &str, more: &str, folder: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        page(below, Some(&name), source, "", folder)?;
    }
    let usage = command.clone().render_usage().to_string();
    let short = command.clone().override_usage(usage.trim_start_matches("Usage: ").to_owned());
    let man = Man::new(short);
    // without a date, which would make each build another
    let mut text = format!(".TH {} 1 \"\" \"{source}\" Ebbtide\n", name.to_uppercase()).into_bytes();
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_subcommands().any(|c| !c.is_hide_set()) {
        man.render_subcommands_section(&mut text)?;
    }
    man.render_options_section(&mut text)?;
    let after = command.get_after_long_help().or_else(|| command.get_after_help());
    let after = after.map(ToString::to_string).unwrap_or_default();
    let mut end = Roff::default();
    sections(&mut end, &format!("{after}\n{more}"));
    if let Some(above) = above {
        end.control("SH", ["SEE ALSO"]);
        end.text([roman(format!("{above}(1)"))]);
    }
    end.to_writer(&mut text)?;
    fs::write(folder.join(format!("{name}.1")), text)
}

/// What is said after the options, as sections.
fn sections(roff: &mut Roff, text: &str) {
    let mut verbatim = false;
    let mut noted = false;
    for line in text.lines() {
        let heading = line.split_once(':').filter(|(heading, rest)| {
            let words = heading.chars().all(|c| c.is_alphabetic() || c == ' ');
            words && heading.starts_with(char::is_uppercase) && (rest.is_empty() || rest.starts_with(' '))
        });
        let indented = line.starts_with(' ');
        if verbatim && !indented {
            roff.control("fi", []);
            verbatim = false;
        }
        if let Some((heading, rest)) = heading.filter(|_| !indented) {
            let heading = if heading == "Exit codes" { "EXIT STATUS".to_owned() } else { heading.to_uppercase() };
            roff.control("SH", [heading.as_str()]);
            noted = true;
            if !rest.is_empty() {
                roff.text([roman(rest.trim_start())]);
            }
        } else if line.is_empty() {
            // the next heading makes the space; within a section it is a paragraph
            if noted {
                roff.control("PP", []);
            }
        } else {
            if !noted {
                roff.control("SH", ["NOTES"]);
                noted = true;
            }
            if indented && !verbatim {
                roff.control("nf", []);
                verbatim = true;
            }
            roff.text([roman(line.strip_prefix("  ").filter(|_| verbatim).unwrap_or(line))]);
        }
    }
    if verbatim {
        roff.control("fi", []);
    }
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;

    #[test]
    fn a_page_for_the_program_and_for_each_command_that_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let run = Command::new("run")
            .about("Run it")
            .arg(Arg::new("pace").long("pace").value_name("WATTS").help("How fast"))
            .after_help("Examples:\n  tool run --pace 5\n  .5 is a number\n\nExit codes: 0 ok,\n1 failed.");
        let tool = Command::new("tool").version("1.2").about("Does things").subcommand(run);
        let tool = tool.subcommand(Command::new("secret").hide(true)).after_help("A word at the end.");
        write(tool, "Files:\n  /etc/tool", dir.path()).unwrap();

        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["tool-run.1", "tool.1"]);
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let (run, tool) = (read("tool-run.1"), read("tool.1"));
        assert!(run.contains(".TH TOOL-RUN 1 \"\" \"tool 1.2\" Ebbtide\n"), "{run}");
        assert!(run.contains(".SH SYNOPSIS\n\\fBtool run\\fR [OPTIONS]\n"), "{run}");
        // a line that begins with a dot is no request to the formatter
        assert!(run.contains(".SH EXAMPLES\n.nf\ntool run \\-\\-pace 5\n\\&.5 is a number\n.fi\n"), "{run}");
        assert!(run.contains(".SH \"EXIT STATUS\"\n0 ok,\n1 failed.\n"), "{run}");
        assert!(run.contains(".SH \"SEE ALSO\"\ntool(1)"), "{run}");
        assert!(tool.contains(".SH NOTES\nA word at the end.\n.SH FILES\n.nf\n/etc/tool\n.fi\n"), "{tool}");
        assert!(tool.contains("tool\\-run(1)") && !tool.contains("secret"), "{tool}");
    }
}
