//! Rules of the house that the compiler does not keep.
//!
//! - Dependencies point downward, as the picture in `src/lib.rs` has them; `proto` does no I/O.
//! - Every file has a head (`//!`) and a size that a reader can hold: 600 lines without tests.
//! - No test is ignored; no lint is silenced without a reason.
//! - The manual has every metric; links in pages lead somewhere.
//! - Dependencies come from one registry, under licences that `deny.toml` allows, each in one version.
//!
//! It reads sources as text, comments and string literals blanked out. Each rule is tried on small bad inputs below.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "a test may fail that way, and holds tables of cases"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

const MAX_LINES: usize = 600;

/// The roles of a process: none of them uses another.
const STORIES: [&str; 4] = ["proxy", "acceptor", "delivery", "mailstore"];

/// What a protocol without I/O has no use for.
const IMPURE: [&str; 10] = [
    "tokio",
    "tracing",
    "getrandom",
    "socket2",
    "rustix",
    "std::fs",
    "fs::",
    "Instant",
    "SystemTime",
    "TcpStream",
];

#[test]
fn dependencies_point_downward() {
    let house = House::parse(&read("src/lib.rs"));
    let mut wrong = Vec::new();
    for file in sources("src") {
        let name = shown(&file);
        for (line, text) in house.wrong_uses(&module_path(&name), &read(&name)) {
            wrong.push(format!("{name}:{line}: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_picture_shows_every_module() {
    let lib = read("src/lib.rs");
    let house = House::parse(&lib);
    for module in modules(&lib) {
        assert!(
            house.place(module).is_some(),
            "{module} is not in the picture"
        );
    }
}

#[test]
fn protocols_do_no_io() {
    let mut wrong = Vec::new();
    for file in sources("src/proto") {
        let name = shown(&file);
        for word in impure_words(&read(&name)) {
            wrong.push(format!("{name}: uses {word}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_have_heads_and_sizes() {
    let mut wrong = Vec::new();
    for file in sources("src").into_iter().chain(sources("tests")) {
        let name = shown(&file);
        let text = read(&name);
        if !has_head(&text) {
            wrong.push(format!("{name}: begins without a head (//!)"));
        }
        let lines = lines_without_tests(&text);
        let is_test = name.starts_with("tests/") || name.contains("/tests");
        if lines > MAX_LINES && !is_test {
            wrong.push(format!(
                "{name}: {lines} lines without tests, more than {MAX_LINES}: two ideas in one file"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_ignored_or_silenced_without_a_reason() {
    let mut wrong = Vec::new();
    for file in sources("src").into_iter().chain(sources("tests")) {
        let name = shown(&file);
        for (line, text) in bad_attributes(&read(&name)) {
            wrong.push(format!("{name}:{line}: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_manual_has_every_metric() {
    let manual = read("docs/manual.md");
    let declared = metric_names(&read("src/metrics/mod.rs"));
    assert!(declared.len() > 10, "{declared:?}");
    for name in declared {
        let full = format!("| `pigeonair_{name}");
        let found = manual
            .lines()
            .filter_map(|line| line.strip_prefix(&full))
            .any(|rest| rest.starts_with(['`', '{']));
        assert!(found, "pigeonair_{name} is not in docs/manual.md");
    }
    let of_processes = metric_names(&read("src/metrics/process.rs"));
    assert!(of_processes.len() > 5, "{of_processes:?}");
    for name in of_processes {
        let row = format!("| `{name}` |");
        assert!(manual.contains(&row), "{name} is not in docs/manual.md");
    }
}

#[test]
fn links_in_pages_lead_somewhere() {
    let mut wrong = Vec::new();
    for page in pages() {
        let folder = root().join(&page);
        let folder = folder.parent().unwrap();
        for link in links(&read(&page)) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => root().join(&page),
                file => folder.join(file),
            };
            let is_there = target.exists()
                && (heading.is_empty()
                    || headings(&fs::read_to_string(&target).unwrap()).contains(heading));
            if !is_there {
                wrong.push(format!("{page}: {link}"));
            }
        }
        for word in read(&page).split(['`', ' ', '\n', '(', ')', ',']) {
            let word = word.trim_end_matches(['.', ':', ';']);
            if word.starts_with("config/") && !word.contains('*') && !root().join(word).exists() {
                wrong.push(format!("{page}: {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The pages in Markdown.
fn pages() -> Vec<String> {
    let mut pages = Vec::new();
    for folder in ["", "docs"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(shown(&path));
            }
        }
    }
    pages
}

/// Where a page's links lead to within the project.
fn links(page: &str) -> Vec<String> {
    let targets = page.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')'));
    targets
        .map(|(target, _)| target.to_owned())
        .filter(|target| !target.contains("://"))
        .collect()
}

/// The names by which a page's headings are linked to.
fn headings(page: &str) -> std::collections::HashSet<String> {
    let lines = page.lines().filter(|line| line.starts_with('#'));
    lines
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

#[test]
fn dependencies_have_allowed_licences_and_one_source() {
    let rules: toml::Table = read("deny.toml").parse().unwrap();
    let allowed = words(&rules["licenses"]["allow"]);
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .arg("--filter-platform")
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        metadata.status.success(),
        "{}",
        String::from_utf8_lossy(&metadata.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_allowed(licence, &allowed) {
            wrong.push(format!("{name}: {licence}"));
        }
    }
    assert!(wrong.is_empty(), "licences: {}", wrong.join("\n"));

    // Those of other systems as well.
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let source = package.get("source").and_then(toml::Value::as_str);
        let has_sum = package.get("checksum").is_some();
        match source {
            None => assert!(
                ["lber", "pigeonair"].contains(&name),
                "{name} is of a folder"
            ),
            Some(source) => {
                assert!(
                    source.starts_with("registry+") && has_sum,
                    "{name}: {source}"
                );
                wrong.push(source.to_owned());
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert_eq!(wrong.len(), 1, "registries: {wrong:?}");
}

/// The texts of a list.
fn words(list: &toml::Value) -> Vec<String> {
    let texts = list.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

/// Whether an SPDX expression can be kept with the allowed licences alone. `AND` binds closer than `OR`, which old crates write as `/`.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    let kept = any_of(&mut rest, allowed);
    kept && rest.is_empty()
}

fn any_of(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut kept = all_of(rest, allowed);
    while let ["OR", after @ ..] = *rest {
        *rest = after;
        kept |= all_of(rest, allowed);
    }
    kept
}

fn all_of(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut kept = one(rest, allowed);
    while let ["AND", after @ ..] = *rest {
        *rest = after;
        kept &= one(rest, allowed);
    }
    kept
}

fn one(rest: &mut &[&str], allowed: &[String]) -> bool {
    match *rest {
        ["(", after @ ..] => {
            *rest = after;
            let kept = any_of(rest, allowed);
            *rest = rest.strip_prefix(&[")"]).unwrap_or(&["?"]);
            kept
        }
        // An exception allows more than the licence does.
        [name, "WITH", _, after @ ..] | [name, after @ ..] => {
            *rest = after;
            allowed.iter().any(|licence| licence == name)
        }
        [] => false,
    }
}

// === the picture ===

/// The rows of the picture in `src/lib.rs`, top first.
struct House(Vec<Row>);

struct Row {
    names: Vec<String>,
    /// Names use those to their right instead of those to their left.
    arrows: bool,
}

impl House {
    fn parse(lib: &str) -> Self {
        let mut known = modules(lib);
        known.push("main");
        let mut rows = Vec::new();
        let picture = lib
            .lines()
            .filter_map(|line| line.strip_prefix("//! "))
            .skip_while(|line| !line.starts_with("```text"))
            .skip(1)
            .take_while(|line| !line.starts_with("```"));
        for line in picture {
            let names: Vec<String> = line
                .split_whitespace()
                .filter(|word| *word != "->")
                .map(|word| word.trim_end_matches(','))
                .take_while(|word| known.contains(word))
                .map(str::to_owned)
                .collect();
            assert!(!names.is_empty(), "no module in the picture's row: {line}");
            let arrows = line.contains("->");
            rows.push(Row { names, arrows });
        }
        assert!(!rows.is_empty(), "no picture");
        Self(rows)
    }

    fn place(&self, module: &str) -> Option<(usize, usize)> {
        self.0.iter().enumerate().find_map(|(row, names)| {
            let column = names.names.iter().position(|name| name == module)?;
            Some((row, column))
        })
    }

    fn allows(&self, user: &str, used: &str) -> bool {
        let (Some((row, column)), Some((used_row, used_column))) =
            (self.place(user), self.place(used))
        else {
            return false;
        };
        let stories = STORIES.contains(&user) && STORIES.contains(&used);
        user == used
            || used_row > row
            || used_row == row
                && !stories
                && if self.0[row].arrows {
                    used_column > column
                } else {
                    used_column < column
                }
    }

    /// What the file of a module uses that it must not, with line numbers.
    fn wrong_uses(&self, module: &[String], text: &str) -> Vec<(usize, String)> {
        let Some(user) = module.first() else {
            return Vec::new();
        };
        uses(module, text)
            .into_iter()
            .filter(|(_, used)| !self.allows(user, used))
            .map(|(line, used)| (line, format!("{user} must not use {used}")))
            .collect()
    }
}

/// The modules that `src/lib.rs` declares.
fn modules(lib: &str) -> Vec<&str> {
    lib.lines()
        .filter_map(|line| {
            let line = line.trim_start_matches("pub ");
            line.strip_prefix("mod ")?.strip_suffix(';')
        })
        .collect()
}

/// The module of a file: `src/proto/imap/mod.rs` is `proto`, `imap`; `src/lib.rs` is the root.
fn module_path(name: &str) -> Vec<String> {
    let path = name.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

/// The top modules that a file names by `crate::`, `pigeonair::` or enough of `super::`, with line numbers.
fn uses(module: &[String], text: &str) -> Vec<(usize, String)> {
    let text = code(text);
    // From here `super`s reach the root; a nested `mod tests` has one more above it.
    let supers = "super::".repeat(module.len().max(1));
    let nested = text.find("mod tests {").unwrap_or(text.len());
    let mut found = Vec::new();
    for prefix in ["crate::", "pigeonair::", supers.as_str()] {
        for (at, _) in text.match_indices(prefix) {
            let before = text[..at].chars().next_back();
            let continues =
                before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'));
            if continues || (prefix == supers && at > nested) {
                continue;
            }
            let line = text[..at].matches('\n').count() + 1;
            let names = first_names(&text[at + prefix.len()..]);
            found.extend(names.into_iter().map(|name| (line, name)));
        }
    }
    found
}

/// The first segment of a path; of each path, where there is a group in braces.
fn first_names(text: &str) -> Vec<String> {
    let Some(group) = text.strip_prefix('{') else {
        let name: String = text.chars().take_while(|c| is_word(*c)).collect();
        let is_module = !name.is_empty() && name != "super" && name != "self";
        return is_module.then_some(name).into_iter().collect();
    };
    let mut names = Vec::new();
    let (mut depth, mut fresh, mut name) = (0_usize, true, String::new());
    for c in group.chars().chain(['}']) {
        if depth == 0 && fresh && is_word(c) {
            name.push(c);
            continue;
        }
        if !name.is_empty() {
            names.push(std::mem::take(&mut name));
            fresh = false;
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ => {}
        }
    }
    names.retain(|name| name != "self");
    names
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

// === the other rules ===

fn impure_words(text: &str) -> Vec<&'static str> {
    let text = code(without_tests(text));
    IMPURE
        .into_iter()
        .filter(|word| {
            text.match_indices(word).any(|(at, _)| {
                let before = text[..at].chars().next_back();
                let after = text[at + word.len()..].chars().next();
                !before.is_some_and(is_word) && (word.ends_with(':') || !after.is_some_and(is_word))
            })
        })
        .collect()
}

fn has_head(text: &str) -> bool {
    text.lines()
        .next()
        .is_some_and(|line| line.strip_prefix("//! ").is_some_and(|head| head.len() > 5))
}

fn without_tests(text: &str) -> &str {
    let end = text
        .find("\n#[cfg(test)]\nmod tests {")
        .unwrap_or(text.len());
    &text[..end]
}

fn lines_without_tests(text: &str) -> usize {
    without_tests(text).lines().count()
}

/// Attributes that ignore a test or silence a lint without a reason, with line numbers.
fn bad_attributes(text: &str) -> Vec<(usize, String)> {
    // Literals are blanked, the word `reason` is not.
    let text = code(text);
    let mut bad = Vec::new();
    for start in ["#[", "#!["] {
        for (at, _) in text.match_indices(start) {
            let attribute = &text[at + start.len()..];
            let attribute = &attribute[..end_of_brackets(attribute)];
            let line = text[..at].matches('\n').count() + 1;
            if attribute.starts_with("ignore") {
                bad.push((line, "a test is ignored".to_owned()));
            }
            let silences = attribute.contains("allow(") || attribute.contains("expect(");
            if silences && !attribute.contains("reason") {
                bad.push((line, "a lint is silenced without a reason".to_owned()));
            }
        }
    }
    bad
}

/// Where the bracket ends that was opened before the text.
fn end_of_brackets(text: &str) -> usize {
    let mut depth = 1_usize;
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The names that `src/metrics` gives its counters.
fn metric_names(text: &str) -> Vec<String> {
    let text: String = text.split_whitespace().collect();
    let mut names = Vec::new();
    for maker in [
        "counters(\"",
        "gauges(\"",
        "IntGauge::new(\"",
        "IntCounter::new(\"",
        "Opts::new(\"",
        "gauge(\"",
        "Counter::new(\"",
    ] {
        for (at, _) in text.match_indices(maker) {
            let rest = &text[at + maker.len()..];
            names.push(rest.split('"').next().unwrap().to_owned());
        }
    }
    names
}

/// A source with comments and the inside of literals turned into blanks; line breaks stay.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r\"") || rest.starts_with("r#") {
            raw_literal(rest, &out)
        } else if c == '"' {
            literal(rest, '"')
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        out.extend(
            rest[..skipped]
                .chars()
                .map(|c| if c == '\n' { c } else { ' ' }),
        );
        rest = &rest[skipped..];
    }
    out
}

fn literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// The length of a raw literal; 0 if the `r` ends a longer word or begins a raw identifier.
fn raw_literal(text: &str, before: &str) -> usize {
    let ends_word = before
        .chars()
        .next_back()
        .is_some_and(|c| is_word(c) && c != 'b');
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    if ends_word || !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let start = hashes + 2;
    text[start..]
        .find(&end)
        .map_or(text.len(), |at| start + at + end.len())
}

/// The length of a character literal; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.chars().skip(1);
    let is_literal = matches!(
        (chars.next(), chars.next()),
        (Some('\\'), _) | (_, Some('\''))
    );
    if is_literal { literal(text, '\'') } else { 0 }
}

// === files ===

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn shown(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// All Rust files below a folder.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {folder}");
    found.sort();
    found
}

// === the rules can fail ===

const LIB: &str = "//! Words.\n//!\n//! ```text\n//! main -> cli -> app, log   wiring of proxy\n\
    //! proxy   acceptor   stories\n//! link  relay   link and relay\n//! names\n//! ```\n\
    pub mod acceptor;\npub mod app;\npub mod cli;\npub mod link;\npub mod log;\npub mod names;\n\
    pub mod proxy;\nmod relay;\n";

#[test]
fn upward_and_sideways_uses_are_found() {
    let house = House::parse(LIB);
    let wrong = |name: &str, text: &str| -> Vec<String> {
        let found = house.wrong_uses(&module_path(name), text);
        found
            .into_iter()
            .map(|(line, text)| format!("{line}: {text}"))
            .collect()
    };
    for (name, text, expected) in [
        (
            "src/proxy.rs",
            "use crate::link::X;\nuse crate::proxy::Y;",
            &[] as &[&str],
        ),
        (
            "src/link/mod.rs",
            "\nuse crate::proxy::Y;",
            &["2: link must not use proxy"],
        ),
        ("src/relay.rs", "use crate::link::X;", &[]),
        (
            "src/link/mod.rs",
            "use crate::relay::X;",
            &["1: link must not use relay"],
        ),
        (
            "src/acceptor/mod.rs",
            "use crate::proxy::X;",
            &["1: acceptor must not use proxy"],
        ),
        (
            "src/proxy/mod.rs",
            "use crate::acceptor::X;",
            &["1: proxy must not use acceptor"],
        ),
        (
            "src/names.rs",
            "use crate::{\n    log::{self, link},\n    names::X,\n    relay,\n};",
            &["1: names must not use log", "1: names must not use relay"],
        ),
        (
            "src/link/a.rs",
            "use super::b;\nuse super::super::proxy;",
            &["2: link must not use proxy"],
        ),
        (
            "src/link/a/b.rs",
            "use super::super::super::proxy::X;",
            &["1: link must not use proxy"],
        ),
        (
            "src/link/mod.rs",
            "use super::proxy;",
            &["1: link must not use proxy"],
        ),
        (
            "src/link/mod.rs",
            "use super::names;\nmod tests {\n    use super::*;\n}",
            &[],
        ),
        ("src/link.rs", "mod tests {\n    use super::frame;\n}", &[]),
        (
            "src/link.rs",
            "fn f() -> crate::app::X {}",
            &["1: link must not use app"],
        ),
        (
            "src/link.rs",
            "// crate::app\nlet x = \"crate::app\"; let y = 'c'; let z: &'a X;",
            &[],
        ),
        (
            "src/link.rs",
            "let x = r#\"crate::app\"\"#; $crate::app!()",
            &[],
        ),
        ("src/main.rs", "use pigeonair::{app, cli};", &[]),
        (
            "src/app.rs",
            "use crate::cli;",
            &["1: app must not use cli"],
        ),
        (
            "src/log.rs",
            "use crate::app;",
            &["1: log must not use app"],
        ),
        (
            "src/link.rs",
            "use crate::nowhere;",
            &["1: link must not use nowhere"],
        ),
    ] {
        assert_eq!(wrong(name, text), expected, "{name}: {text}");
    }
}

#[test]
fn a_module_that_the_picture_lacks_is_found() {
    let lib = format!("{LIB}pub mod hidden;\n");
    assert!(modules(&lib).contains(&"hidden"));
    assert_eq!(House::parse(&lib).place("hidden"), None);
    assert_eq!(House::parse(LIB).place("relay"), Some((2, 1)));
}

#[test]
fn io_in_a_protocol_is_found() {
    assert_eq!(
        impure_words("use tokio::net::TcpStream;"),
        ["tokio", "TcpStream"]
    );
    assert_eq!(
        impure_words("let t = std::time::Instant::now();"),
        ["Instant"]
    );
    assert_eq!(impure_words("use std::fs;"), ["std::fs"]);
    let pure = "//! no tokio here\nstruct Instantly; // Instant\n\n#[cfg(test)]\nmod tests {\n use std::fs;\n}\n";
    assert_eq!(impure_words(pure), [""; 0]);
}

#[test]
fn missing_heads_and_long_files_are_found() {
    assert!(has_head("//! What it does.\n"));
    assert!(!has_head("use std::fs;\n"));
    assert!(!has_head("// What it does.\n"));
    assert!(!has_head("//!\n"));
    let long = "x\n".repeat(MAX_LINES + 1);
    assert!(lines_without_tests(&long) > MAX_LINES);
    let tested = format!("x\n\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert!(lines_without_tests(&tested) < 4);
}

#[test]
fn ignored_tests_and_bare_allows_are_found() {
    let lines = |text: &str| -> Vec<usize> {
        bad_attributes(text)
            .into_iter()
            .map(|(line, _)| line)
            .collect()
    };
    assert_eq!(lines("\n#[ignore]\nfn f() {}"), [2]);
    assert_eq!(lines("#[ignore = \"slow\"]"), [1]);
    assert_eq!(lines("#[allow(dead_code)]"), [1]);
    assert_eq!(lines("#![allow(dead_code)]"), [1]);
    assert_eq!(lines("#[cfg_attr(test, expect(\n    dead_code\n))]"), [1]);
    assert_eq!(
        lines("#[allow(\n    dead_code,\n    reason = \"x\"\n)]"),
        [0; 0]
    );
    assert_eq!(lines("// #[ignore]\nlet x = \"#[ignore]\";"), [0; 0]);
    assert_eq!(lines("let x = map[0]; x.expect(\"y\");"), [0; 0]);
}

#[test]
fn metric_names_are_read_over_line_breaks() {
    let text = "a: counters(\n    \"x_total\",\n \"Help.\")?, b: IntGauge::new(\"y\", \"..\"), HistogramOpts::new(\"z\", \"\")";
    assert_eq!(metric_names(text), ["x_total", "y", "z"]);
}

#[test]
fn links_and_headings_are_read() {
    let page = "# One: `[two]`\nsee [a](b.md#c), [d](https://e) and [f](#g)\n";
    assert_eq!(links(page), ["b.md#c", "#g"]);
    assert!(headings(page).contains("one-two"));
}

#[test]
fn licences_are_read_as_expressions() {
    let allowed = ["MIT", "ISC", "Apache-2.0"].map(str::to_owned);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("ISC AND (MIT OR GPL-3.0)", true),
        ("GPL-3.0 AND MIT OR GPL-3.0", false),
        ("(GPL-3.0 OR LGPL-3.0) AND MIT", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("(MIT", false),
        ("MIT )", false),
        ("none", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
