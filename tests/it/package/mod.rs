//! The Debian package, in a Debian of its own: what it brings and what it leaves, and its units under a real systemd.
//!
//! With `PIGEONAIR_FULL` alone, since it is built first.

mod machine;
mod reload;
mod steering;
mod systemd;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use self::machine::{Done, Machine};

const CONFIGURATION: &str = "/etc/pigeonair/pigeonair.toml";
const ACCOUNTS: &str = "/etc/pigeonair/accounts.toml";
const KEY: &str = "/etc/pigeonair/local.key";

fn is_full() -> bool {
    let is_full = std::env::var_os("PIGEONAIR_FULL").is_some();
    if !is_full {
        eprintln!("not tried without PIGEONAIR_FULL");
    }
    is_full
}

/// The package, built.
fn package() -> PathBuf {
    static PACKAGE: LazyLock<PathBuf> = LazyLock::new(|| {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut make = Command::new("make");
        let output = make.arg("-C").arg(&root).arg("deb").output().unwrap();
        let notes = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "make deb: {notes}");
        let folder = fs::read_dir(root.join("target/debian")).unwrap();
        let mut files = folder.map(|entry| entry.unwrap().path());
        let is_package = |path: &PathBuf| path.extension().is_some_and(|end| end == "deb");
        files.find(is_package).expect("make deb leaves a package")
    });
    PACKAGE.clone()
}

/// Installs it, offline.
fn install(machine: &Machine) {
    install_file(machine, &package()).ok();
}

fn install_file(machine: &Machine, package: &Path) -> Done {
    fs::copy(package, machine.path("/pigeonair.deb")).unwrap();
    let done = machine.run(&["dpkg", "--install", "/pigeonair.deb"]);
    fs::remove_file(machine.path("/pigeonair.deb")).unwrap();
    done
}

/// The ids of the package's user.
fn ids(machine: &Machine) -> [String; 2] {
    ["-u", "-g"].map(|option| machine.run(&["id", option, "pigeonair"]).ok())
}

#[test]
fn it_brings_what_it_says_and_its_configuration_is_sound() {
    if !is_full() {
        return;
    }
    let machine = Machine::new();
    install(&machine);
    let [uid, gid] = ids(&machine);
    let entry = machine.run(&["getent", "passwd", "pigeonair"]).ok();
    assert!(entry.ends_with(":/usr/sbin/nologin"), "{entry}");
    for (path, status) in [
        ("/usr/bin/pigeonair", "0755 0:0"),
        ("/etc/pigeonair", "0755 0:0"),
        (CONFIGURATION, "0644 0:0"),
        (ACCOUNTS, &format!("0640 0:{gid}")),
        (KEY, &format!("0640 0:{gid}")),
        ("/etc/pigeonair/master.password", "0600 0:0"),
        ("/var/lib/pigeonair-node/mail", "0711 0:0"),
        ("/var/lib/pigeonair", &format!("0700 {uid}:{gid}")),
        ("/usr/share/man/man8/pigeonair-run.8.gz", "0644 0:0"),
        ("/usr/share/man/man5/pigeonair.toml.5.gz", "0644 0:0"),
    ] {
        assert_eq!(machine.status(path), status, "{path}");
    }
    // The front's part as the front reads it, all of it as root.
    let own = [
        "setpriv",
        &format!("--reuid={uid}"),
        &format!("--regid={gid}"),
        "--clear-groups",
    ];
    let front = ["pigeonair", "check", "front"];
    let said = machine.run(&[&own[..], &front].concat()).ok();
    assert!(said.starts_with(&format!("{CONFIGURATION}: ok ")), "{said}");
    let said = machine.run(&["pigeonair", "check"]).ok();
    assert!(said.ends_with("node: local)"), "{said}");
    let node = ["cat", "/etc/pigeonair/master.password"];
    assert_eq!(machine.run(&[&own[..], &node].concat()).code, Some(1));
}

#[test]
fn what_was_written_stays_and_a_purge_leaves_nothing_else() {
    if !is_full() {
        return;
    }
    let machine = Machine::new();
    let before = machine.files();
    install(&machine);
    let [uid, gid] = ids(&machine);
    let read = |path| fs::read_to_string(machine.path(path)).unwrap();
    let key = read(KEY);
    let accounts = read(ACCOUNTS) + "# mine\n";
    machine.write(ACCOUNTS, &accounts);
    machine.run(&["dpkg", "--remove", "pigeonair"]).ok();
    assert!(!machine.path("/usr/bin/pigeonair").exists());
    install(&machine);
    assert_eq!((read(KEY), read(ACCOUNTS)), (key.clone(), accounts));
    assert_eq!(machine.status(ACCOUNTS), format!("0640 0:{gid}"));
    machine.run(&["dpkg", "--purge", "pigeonair"]).ok();
    let after = machine.files();
    let left: Vec<&String> = after.symmetric_difference(&before).collect();
    assert_eq!(left, Vec::<&String>::new());
    // Its user stays, as files of it may.
    assert_eq!(ids(&machine), [uid, gid]);

    install(&machine);
    assert_ne!(read(KEY), key);
    machine.write("/etc/pigeonair/privkey.pem", "somebody's");
    machine.run(&["dpkg", "--purge", "pigeonair"]).ok();
    let after = machine.files();
    let left: Vec<&String> = after.difference(&before).collect();
    let folder = "/etc/pigeonair 0755 0:0";
    assert_eq!(left, [folder, "/etc/pigeonair/privkey.pem 0644 0:0"]);
}

#[test]
fn lintian_has_nothing_to_say() {
    if !is_full() {
        return;
    }
    let output = Command::new("lintian")
        .args(["--allow-root", "--fail-on", "error,warning"])
        .arg(package())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}
