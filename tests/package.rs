//! What the Debian package is made of: pages, completion, files and scripts, before anything is packed.
//!
//! The package itself is built and installed by `tests/it/package`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail that way"
)]

#[path = "../examples/man/markdown.rs"]
mod markdown;
#[path = "../examples/man/page.rs"]
mod page;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use clap_mangen::roff::Roff;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Standard output of a program that succeeds and has nothing to complain of.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let [out, notes] =
        [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
    assert!(
        output.status.success() && notes.is_empty(),
        "{program} {arguments:?}: {notes}{out}"
    );
    out
}

// === manual pages ===

fn pages() -> Vec<(String, String)> {
    page::all().unwrap()
}

/// A page as it is read, without line breaks, hyphenation and the two characters that stand for hyphens.
fn rendered(page: &Path) -> String {
    let page = page.to_str().unwrap();
    let text = said("mandoc", &["-T", "utf8", "-O", "width=1000", page]);
    let bold = |text: &str| {
        let mut plain = String::new();
        for c in text.chars() {
            if c == '\u{8}' {
                plain.pop();
            } else {
                plain.push(c);
            }
        }
        plain
    };
    bold(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn there_is_a_page_for_each_command_and_mandoc_has_nothing_to_say() {
    let dir = tempfile::tempdir().unwrap();
    let mut names = BTreeSet::new();
    for (name, text) in pages() {
        let path = dir.path().join(&name);
        fs::write(&path, text).unwrap();
        said(
            "mandoc",
            &["-T", "lint", "-W", "warning", path.to_str().unwrap()],
        );
        names.insert(name);
    }
    let command = pigeonair::cli::command();
    let mut commands = vec![("pigeonair".to_owned(), &command)];
    let mut expected = BTreeSet::from(["pigeonair.toml.5".to_owned()]);
    while let Some((page, command)) = commands.pop() {
        let file = format!("{page}.8");
        let text = rendered(&dir.path().join(&file));
        for option in command.get_arguments() {
            let name = match option.get_long() {
                Some(name) => format!("--{name}"),
                None => option.get_value_names().unwrap()[0].to_string(),
            };
            assert!(text.contains(&name), "{name} is not in {text}");
        }
        // Pages lead to those of the commands within, and to no other.
        let mut led_to = text.matches(&format!("{page}-")).count();
        for command in command.get_subcommands().filter(|it| !it.is_hide_set()) {
            let within = format!("{page}-{}", command.get_name());
            assert!(text.contains(&format!("{within}(8)")), "{within}: {text}");
            commands.push((within, command));
            led_to -= 1;
        }
        assert_eq!(led_to, 0, "{text}");
        expected.insert(file);
    }
    assert!(expected.len() > 20, "{expected:?}");
    assert!(expected.contains("pigeonair-cache-flush.8"));
    assert_eq!(names, expected);
}

#[test]
fn the_page_of_the_configuration_has_every_key_and_its_default() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pigeonair.toml.5");
    let pages = pages();
    let (_, text) = pages
        .iter()
        .find(|(name, _)| name == "pigeonair.toml.5")
        .unwrap();
    fs::write(&path, text).unwrap();
    let text = rendered(&path);
    let manual = read("docs/manual.md");
    let (_, chapter) = manual.split_once("\n## The configuration file\n").unwrap();
    let (chapter, _) = chapter.split_once("\n## ").unwrap();
    let mut keys = 0;
    for row in chapter.lines() {
        let cells: Vec<&str> = row.split(" | ").collect();
        if !row.starts_with("| `") || cells.len() != 4 {
            continue;
        }
        keys += 1;
        let [key, default] = [cells[0], cells[3]].map(|cell| {
            cell.trim_matches(['|', ' '])
                .replace('`', "")
                .replace("\\|", "|")
        });
        let is_told = text.split(&format!(" {key} ")).skip(1).any(|row| {
            let found = row.split_once("default: ");
            found.is_some_and(|(_, found)| default.contains("](") || found.starts_with(&default))
        });
        assert!(is_told, "{key} with {default}");
    }
    assert!(keys > 100, "{keys}");
}

#[test]
fn markdown_becomes_the_language_of_pages() {
    let text = "# Title\nAbove.\n\n## One `two`\n\nA *word*, `code\\n`, **bold** and [a link](x.md#y).\nIts second line's end.\n\n\
                - one\n  of two\n- `two`\n\n```text\n# no heading\n.TH\n```\n\nLast.\n### Below\n| | a |\n| --- | --- |\n| x | y \\| z |\n## Next\nno\n";
    let chapters: Vec<&str> = markdown::chapters(text)
        .map(|chapter| chapter.title)
        .collect();
    assert_eq!(chapters, ["Title", "One `two`", "Below", "Next"]);
    let chapter = markdown::chapters(text).nth(1).unwrap();
    let mut roff = Roff::new();
    markdown::write(&mut roff, chapter.text);
    assert_eq!(
        roff.to_roff(),
        "A *word*, \\fBcode\\\\n\\fR, \\fBbold\\fR and a link. Its second line's end.\n\
         .IP \\(bu 2\none of two\n.IP \\(bu 2\n\\fBtwo\\fR\n\
         .PP\n.RS 4\n.EX\n# no heading\n\\&.TH\n.EE\n.RE\n.PP\nLast.\n"
    );
    let parts: Vec<_> = chapter.parts().collect();
    assert_eq!(parts.len(), 1);
    let mut roff = Roff::new();
    markdown::write(&mut roff, parts[0].text);
    assert_eq!(roff.to_roff(), ".TP\nx\na: y | z\n");
}

// === completion ===

/// What bash offers for the last of these words.
fn offered(script: &Path, words: &[&str]) -> BTreeSet<String> {
    let last = words.len() - 1;
    let asked = format!(
        "source '{}'; COMP_WORDS=({}); COMP_CWORD={last}; \
         $(complete -p pigeonair | sed 's/.*-F \\([^ ]*\\).*/\\1/') pigeonair '{}' '{}'; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.join(" "),
        words[last],
        words[last - 1],
    );
    let said = said("bash", &["--norc", "-c", &asked]);
    said.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("pigeonair");
    let program = env!("CARGO_BIN_EXE_pigeonair");
    fs::write(&script, said(program, &["completion", "bash"])).unwrap();
    said("bash", &["-n", script.to_str().unwrap()]);
    let one = |word: &str| BTreeSet::from([word.to_owned()]);
    assert_eq!(offered(&script, &["pigeonair", "exp"]), one("explain"));
    assert_eq!(
        offered(&script, &["pigeonair", "check", "--onl"]),
        one("--online")
    );
    assert_eq!(offered(&script, &["pigeonair", "run", "fr"]), one("front"));
    let shells = offered(&script, &["pigeonair", "completion", "''"]);
    for shell in ["bash", "fish", "zsh"] {
        assert!(shells.contains(shell), "{shells:?}");
        let script = said(program, &["completion", shell]);
        for command in pigeonair::cli::command().get_subcommands() {
            assert!(script.contains(command.get_name()), "{shell}");
        }
    }
}

// === what is packed ===

/// Each asset: what it is made of, where it goes, its mode.
fn assets() -> Vec<[String; 3]> {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"]
        .as_array()
        .unwrap();
    let texts = |asset: &toml::Value| {
        let texts = asset.as_array().unwrap().iter();
        let texts: Vec<String> = texts
            .map(|text| text.as_str().unwrap().to_owned())
            .collect();
        texts.try_into().unwrap()
    };
    assets.iter().map(texts).collect()
}

/// Whether a pattern with one `*` at most, in its last part, is that of a file.
fn is_of(pattern: &str, file: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == file,
        Some((start, end)) => file
            .strip_prefix(start)
            .and_then(|rest| rest.strip_suffix(end))
            .is_some_and(|rest| !rest.contains('/')),
    }
}

/// The files below a folder of the project.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root()).unwrap();
                found.push(name.to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn everything_that_is_packed_is_there_and_all_samples_and_pages_are_packed() {
    let assets = assets();
    let mut all = files("config");
    all.extend(files("docs"));
    let made = read("Makefile");
    for [source, _, _] in &assets {
        let is_there = match source.strip_prefix("target/") {
            None => root().join(source).exists() || all.iter().any(|file| is_of(source, file)),
            Some(_) => made.contains(source.split('*').next().unwrap().trim_end_matches('/')),
        };
        assert!(is_there, "{source}");
    }
    for file in all {
        let is_for_users = !file.starts_with("config/debian/");
        let is_packed = assets.iter().any(|[source, _, _]| is_of(source, &file));
        assert!(is_packed || !is_for_users, "{file} is not in the package");
    }
}

#[test]
fn scripts_run_and_the_versions_agree() {
    for script in ["postinst", "prerm", "postrm"] {
        let path = root().join("config/debian").join(script);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script}");
        said("sh", &["-n", path.to_str().unwrap()]);
    }
    let changes = read("config/debian/changelog");
    let version = concat!("pigeonair (", env!("CARGO_PKG_VERSION"), "-1) ");
    assert!(changes.starts_with(version), "{changes}");
    // Where the units look for the program.
    let [_, folder, _] = assets()
        .into_iter()
        .find(|[source, _, _]| source == "target/release/pigeonair")
        .unwrap();
    for unit in ["pigeonair-front.service", "pigeonair-node.service"] {
        let unit = read(&format!("config/systemd/{unit}"));
        assert!(unit.contains(&format!("\nExecStart=/{folder}pigeonair run ")));
        assert!(!unit.contains("=/usr/local/"), "{unit}");
    }
}

/// The folders and files of a machine in a folder of the test, and whoever runs it as the front's user.
#[test]
fn the_configuration_that_is_installed_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let user = rustix::process::geteuid().as_raw();
    let shipped = read("config/debian/pigeonair.toml");
    let words = [
        ("/etc/pigeonair/", format!("{at}/")),
        ("/var/lib/pigeonair-node/mail", at.to_string()),
        ("/var/lib/pigeonair/", format!("{at}/")),
        ("peers = [\"pigeonair\"]", format!("peers = [{user}]")),
        // Who runs it may be root, which no front becomes.
        ("front_user = \"pigeonair\"\n", String::new()),
    ];
    let text = words.iter().fold(shipped, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    let path = dir.path().join("pigeonair.toml");
    fs::write(&path, text).unwrap();
    let program = env!("CARGO_BIN_EXE_pigeonair");
    for secret in ["local.key", "master.password"] {
        let file = dir.path().join(secret);
        said(program, &["key", "--out", file.to_str().unwrap()]);
    }
    let accounts = dir.path().join("accounts.toml");
    fs::copy(root().join("config/debian/accounts.toml"), &accounts).unwrap();
    fs::set_permissions(&accounts, fs::Permissions::from_mode(0o640)).unwrap();
    let said = said(program, &["check", "--config", path.to_str().unwrap()]);
    assert!(
        said.ends_with(": ok (front: 3 listeners and 1 node, node: local)\n"),
        "{said}"
    );
}
