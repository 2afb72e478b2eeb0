//! The program as service managers see it: exit codes, what is on which stream.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail that way"
)]

use std::{fs, process::Command};

/// Exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pigeonair"))
        .args(arguments)
        .output()
        .unwrap();
    let [out, notes] =
        [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
    (output.status.code().unwrap(), out, notes)
}

#[test]
fn questions_succeed() {
    let (code, out, notes) = run(&["--version"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("pigeonair "), "{out}");
    assert_eq!(notes, "");
    let (code, out, _) = run(&["key"]);
    assert_eq!((code, out.len()), (0, 65));
}

#[test]
fn a_wrong_command_line_is_64() {
    for arguments in [
        &[] as &[&str],
        &["start"],
        &["run", "all"],
        &["key", "--to", "x"],
    ] {
        let (code, out, notes) = run(arguments);
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?}");
        assert!(!notes.is_empty());
    }
}

#[test]
fn a_bad_configuration_is_78_with_every_problem() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.toml");
    fs::write(&path, "[proxy]\ncolour = 1\n[acceptor]\nfrom = 1\n").unwrap();
    let path = path.to_str().unwrap();
    for (command, some) in [
        (
            &["check"] as &[&str],
            &["proxy.colour: ", "directory: ", "acceptor.from: "] as &[&str],
        ),
        (&["check", "front"], &["proxy.colour: ", "nodes: "]),
        (&["run", "front"], &["proxy.colour: ", "nodes: "]),
        (&["run", "node"], &["acceptor.from: ", "acceptor.name: "]),
    ] {
        let arguments = [command, &["--config", path]].concat();
        let (code, out, notes) = run(&arguments);
        assert_eq!((code, out.as_str()), (78, ""), "{arguments:?}");
        for key in some {
            let line = format!("{path}: {key}");
            assert!(
                notes.lines().any(|found| found.starts_with(&line)),
                "{notes}"
            );
        }
    }
    let (code, _, notes) = run(&["run", "node", "--config", "/nowhere/x.toml"]);
    assert_eq!(code, 78);
    assert_eq!(
        notes,
        "/nowhere/x.toml: cannot read it: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_key_is_never_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link.key");
    let arguments = ["key", "--out", path.to_str().unwrap()];
    assert_eq!(run(&arguments), (0, String::new(), String::new()));
    let key = fs::read(&path).unwrap();
    assert_eq!(run(&arguments).0, 73);
    assert_eq!(fs::read(&path).unwrap(), key);
}
