//! Links lead somewhere, and every page can be found from the book's table of contents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::pages::{self, Page};

/// A link's target, with the line that it is in.
fn links(page: &Page) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in page.prose() {
        let line = pages::without_spans(line);
        let mut rest = line.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else { break };
            links.push((number, target.to_owned()));
            rest = after;
        }
    }
    links
}

/// A path without `.` and `..`; none if it leaves the repository.
fn resolved(from: &str, target: &str) -> Option<String> {
    let mut path = PathBuf::from(from).parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir if !path.pop() => return None,
            Component::ParentDir | Component::CurDir => {}
            other => path.push(other),
        }
    }
    path.into_os_string().into_string().ok()
}

fn wrong_links(pages: &[Page]) -> Vec<String> {
    let root = pages::repository();
    let anchors: BTreeMap<&str, Vec<String>> = pages.iter().map(|p| (p.name.as_str(), p.anchors())).collect();
    let mut wrong = Vec::new();
    for page in pages {
        for (line, target) in links(page) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() { Some(page.name.clone()) } else { resolved(&page.name, path) };
            let here = format!("{}:{line}: {target}", page.name);
            match file {
                None => wrong.push(format!("{here} leaves the repository")),
                Some(file) if !anchors.contains_key(file.as_str()) && !root.join(&file).exists() => {
                    wrong.push(format!("{here}: there is no {file}"))
                }
                Some(file) if page.name.starts_with("docs/") && !file.starts_with("docs/") => {
                    wrong.push(format!("{here} leaves docs/: the book has nothing else, name the file instead"));
                }
                Some(file) if !anchor.is_empty() => match anchors.get(file.as_str()) {
                    Some(known) if known.iter().any(|name| name == anchor) => {}
                    Some(known) => wrong.push(format!("{here}: no such heading; there are {known:?}")),
                    None => wrong.push(format!("{here}: headings of {file} aren't known")),
                },
                Some(_) => {}
            }
        }
    }
    wrong
}

#[test]
fn links_lead_somewhere() {
    let wrong = wrong_links(&pages::all());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page = |text: &str| Page { name: "docs/x.md".into(), text: text.into() };
    for (text, why) in [
        ("[a](gone.md)", "there is no docs/gone.md"),
        ("[a](../../x)", "leaves the repository"),
        ("[a](../README.md)", "leaves docs/"),
        ("# Here\n[a](#there)", "no such heading"),
    ] {
        let wrong = wrong_links(&[page(text)]);
        assert!(wrong.len() == 1 && wrong[0].contains(why), "{text}: {wrong:?}");
    }
    assert_eq!(wrong_links(&[page("# Here `a`\n[a](#here-a) `[b](c)` [w](https://example.com/x)")]), [""; 0]);
}

#[test]
fn every_page_is_in_the_book_once() {
    let pages = pages::all();
    let summary = pages.iter().find(|page| page.name == "docs/SUMMARY.md").unwrap();
    let listed: Vec<String> =
        links(summary).into_iter().map(|(_, target)| resolved(&summary.name, &target).unwrap()).collect();
    let once: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    assert_eq!(once.len(), listed.len(), "a page is in docs/SUMMARY.md twice: {listed:?}");
    let there: BTreeSet<&str> = pages
        .iter()
        .map(|page| page.name.as_str())
        .filter(|name| name.starts_with("docs/") && *name != "docs/SUMMARY.md")
        .collect();
    let missing: Vec<_> = there.difference(&once).collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md doesn't have {missing:?}");
    let extra: Vec<_> = once.difference(&there).collect();
    assert!(extra.is_empty(), "docs/SUMMARY.md has what isn't there: {extra:?}");
}

/// Who reads on from the README finds every page: by a link in it, or in a page that is linked to.
#[test]
fn no_page_is_an_orphan() {
    let pages = pages::all();
    let by_name: BTreeMap<&str, &Page> = pages.iter().map(|page| (page.name.as_str(), page)).collect();
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut next = vec!["README.md".to_owned()];
    while let Some(name) = next.pop() {
        if let Some(page) = by_name.get(name.as_str()).filter(|_| found.insert(name.clone())) {
            let to = |target: &str| resolved(&name, target.split('#').next().unwrap_or_default());
            next.extend(links(page).iter().filter_map(|(_, target)| to(target)).filter(|to| to != "docs/SUMMARY.md"));
        }
    }
    let orphans: Vec<&&str> =
        by_name.keys().filter(|name| !found.contains(**name) && **name != "docs/SUMMARY.md").collect();
    assert!(orphans.is_empty(), "no page links to {orphans:?}");
}

/// A file of the repository that a page names by its whole path is there.
#[test]
fn files_that_pages_name_are_there() {
    let root = pages::repository();
    let mut named = 0;
    let mut wrong = Vec::new();
    for page in pages::all() {
        for (line, text) in page.prose() {
            for span in pages::spans(text) {
                let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
                let top = span.split_once('/').map(|(top, _)| top);
                let ours = top.is_some_and(|top| {
                    ["agent", "bench", "docs", "ebpf", "fleet", "fuzz", "proto", "runtime", "tools"].contains(&top)
                });
                if plain && ours {
                    named += 1;
                    if !root.join(span).exists() {
                        wrong.push(format!("{}:{line}: there is no {span}", page.name));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(named > 60, "only {named} were found");
}
