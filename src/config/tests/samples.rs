//! The samples under `config/` and the manual say what the reader does.

use std::collections::BTreeSet;

use super::*;

fn of_the_project(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const SAMPLES: [&str; 3] = [
    "config/proxy.toml",
    "config/node.toml",
    "config/single.toml",
];

fn is_key(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !text.is_empty() && text.chars().all(is_part)
}

/// A commented-out key of a sample: its assignment, and whether its comment says that it is only an example.
fn commented(line: &str) -> Option<(&str, bool)> {
    let line = line.strip_prefix('#')?;
    let (assignment, comment) = line.split_once(" #").unwrap_or((line, ""));
    let (key, _) = assignment.split_once(" = ")?;
    is_key(key).then_some((assignment.trim_end(), comment.contains("default:")))
}

#[test]
fn samples_show_the_defaults() {
    let folder = Folder::new();
    for sample in SAMPLES {
        let text = of_the_project(sample);
        let uncommented: String = text
            .lines()
            .map(|line| match commented(line) {
                Some((assignment, false)) => format!("{assignment}\n"),
                Some((_, true)) | None => format!("{line}\n"),
            })
            .collect();
        let [as_is, uncommented] = [&text, &uncommented].map(|text| {
            let config = folder.read(text, None);
            let config = config.unwrap_or_else(|problems| panic!("{sample}: {problems}"));
            format!("{config:#?}")
        });
        for (one, two) in as_is.lines().zip(uncommented.lines()) {
            assert_eq!(one, two, "{sample}");
        }
        assert_eq!(as_is, uncommented, "{sample}");
    }
}

#[test]
fn examples_in_the_samples_are_valid() {
    let folder = Folder::new();
    for sample in ["config/proxy.toml", "config/node.toml"] {
        let text: String = of_the_project(sample)
            .lines()
            .map(|line| format!("{}\n", commented(line).map_or(line, |(key, _)| key)))
            .collect();
        let config = folder.read(&text, None);
        assert!(config.is_ok(), "{sample}: {}", config.unwrap_err());
    }
}

/// As `docs/deploying.md` joins them for a machine that has both processes.
#[test]
fn the_samples_of_both_processes_make_one_file() {
    let [proxy, node] = ["config/proxy.toml", "config/node.toml"].map(of_the_project);
    let (_, node) = node.split_once("\n[acceptor]\n").unwrap();
    let config = Folder::new().read(&format!("{proxy}\n[acceptor]\n{node}"), None);
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.front.is_some() && config.node.is_some());
}

#[test]
fn certificates_are_where_the_hook_of_the_manual_puts_them() {
    let hook = "\nto=/etc/pigeonair/$(basename \"$RENEWED_LINEAGE\")\n";
    assert!(of_the_project("docs/manual.md").contains(hook));
    for sample in ["config/proxy.toml", "config/single.toml"] {
        let text = of_the_project(sample);
        for file in ["fullchain.pem", "privkey.pem"] {
            let path = format!(" = \"/etc/pigeonair/mail.example.org/{file}\"");
            assert!(text.contains(&path), "{sample}: {file}");
        }
    }
}

#[test]
fn the_sample_of_accounts_names_the_keys_of_an_account() {
    let text: String = of_the_project("config/accounts.toml")
        .lines()
        .map(|line| format!("{}\n", commented(line).map_or(line, |(key, _)| key)))
        .collect();
    let table: Table = text.parse().unwrap();
    let accounts = table["account"].as_array().unwrap();
    let keys: Vec<&String> = accounts[0].as_table().unwrap().keys().collect();
    let manual = of_the_project("docs/manual.md");
    for key in keys {
        assert!(manual.contains(&format!("| account: `{key}` |")), "{key}");
    }
}

/// Keys that stand in a sample, each as `section.key`: in force, commented out, or in a comment's lines for another case.
fn shown(sample: &str) -> BTreeSet<String> {
    let (mut section, mut shown) = (String::new(), BTreeSet::new());
    for line in sample.lines() {
        let line = line.trim_start_matches(['#', ' ']);
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_start_matches('[').split(']').next().unwrap();
            name.clone_into(&mut section);
        } else if let Some((key, _)) = line.split_once(" = ")
            && is_key(key)
        {
            shown.insert(format!("{section}.{key}"));
        }
    }
    shown
}

#[test]
fn the_samples_show_every_key_of_the_manual() {
    let shown: BTreeSet<String> = SAMPLES
        .iter()
        .flat_map(|sample| shown(&of_the_project(sample)))
        .collect();
    let missing: Vec<String> = explained()
        .into_iter()
        .map(|(key, _)| key)
        .filter(|key| !shown.contains(key))
        .collect();
    assert_eq!(missing, Vec::<String>::new(), "in no sample");
}

#[test]
fn a_key_is_found_wherever_a_sample_has_it() {
    let sample = "[a]\nin_force = 1\n#by_default = 2 # more\n# words, not = a key\n# or, in its place:\n#   [b.c]\n\
                  #   other2 = 3\n[[d]] # one\nlast = 4\n";
    let expected = ["a.by_default", "a.in_force", "b.c.other2", "d.last"];
    assert_eq!(
        shown(sample),
        expected.map(str::to_owned).into_iter().collect()
    );
}

/// Keys that the reader asks for, each as `section.key`.
fn asked() -> BTreeSet<String> {
    let folder = Folder::new();
    let dovecot = BOTH.replace("kind = \"login\"", "kind = 'dovecot-imap-master'");
    let file = BOTH.replace("kind = \"ldap\"", "kind = 'file'");
    let pop3 = BOTH.replace("[acceptor.imap]", "[acceptor.pop3]");
    let courier = BOTH.split("[acceptor.imap]").next().unwrap().to_owned()
        + &of_the_project("config/courier/exec.toml");
    let samples = SAMPLES.map(of_the_project);
    let policy = BOTH.to_owned() + "[proxy.policy]\n";
    let maildir = BOTH.to_owned() + "[mailstore]\nkind = 'maildir'\n";
    let mut asked = BTreeSet::new();
    for text in samples
        .iter()
        .chain([&dovecot, &file, &pop3, &courier, &policy, &maildir])
    {
        let table: Table = folder.place(text).parse().unwrap();
        let report = Report::default();
        assemble(&mut Section::root(&table, &report), None, &folder.system());
        asked.append(&mut report.asked.borrow_mut());
    }
    asked
}

/// The rows of the manual's tables of keys: `section.key`, and the row's default.
fn explained() -> Vec<(String, String)> {
    let manual = of_the_project("docs/manual.md");
    let mut section = None;
    let mut rows = Vec::new();
    for line in manual.lines() {
        if line.starts_with('#') {
            section = line
                .split_once('[')
                .map(|(_, name)| name.trim_end_matches(['`', ']']).trim_start_matches('['));
        }
        let (Some(section), Some(row)) = (section, line.strip_prefix("| `")) else {
            continue;
        };
        let (key, rest) = row.split_once('`').unwrap();
        let rest = rest.replace("\\|", "\u{0}");
        let default = rest.rsplit('|').nth(1).unwrap().replace('\u{0}', "|");
        rows.push((format!("{section}.{key}"), default));
    }
    rows
}

#[test]
fn the_manual_explains_every_key() {
    let explained = explained();
    let mut keys: BTreeSet<String> = explained.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys.len(), explained.len(), "a key is explained twice");
    // Sections are explained by their headings.
    let sections: BTreeSet<String> = keys
        .iter()
        .filter_map(|key| key.rsplit_once('.').map(|(section, _)| section.to_owned()))
        .collect();
    keys.extend(sections.iter().cloned());
    let asked = asked();
    let missing: Vec<_> = asked.difference(&keys).collect();
    assert_eq!(missing, Vec::<&String>::new(), "not in the manual");
    let spare: Vec<_> = keys
        .difference(&asked)
        .filter(|key| !matches!(key.as_str(), "proxy" | "directory" | "nodes" | "acceptor"))
        .collect();
    assert_eq!(spare, Vec::<&String>::new(), "only in the manual");
}

#[test]
fn the_manual_has_the_defaults_of_the_samples() {
    let explained = explained();
    for sample in SAMPLES {
        let mut section = String::new();
        for line in of_the_project(sample).lines() {
            if line.starts_with('[') {
                let name = line.split('#').next().unwrap();
                section = name.trim().trim_matches(['[', ']']).to_owned();
            }
            let Some((assignment, false)) = commented(line) else {
                continue;
            };
            let (key, value) = assignment.split_once(" = ").unwrap();
            let key = format!("{section}.{key}");
            let Some((_, default)) = explained.iter().find(|(explained, _)| *explained == key)
            else {
                panic!("{sample}: {key} is not in the manual");
            };
            assert!(
                default.contains(&format!("`{value}`")),
                "{sample}: {key} = {value}, but the manual says {default}"
            );
        }
    }
}
