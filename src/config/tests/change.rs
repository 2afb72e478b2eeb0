//! What differs between two files, and what of it a process that runs cannot take.

use super::*;

/// Both processes' configuration, and the same after replacements.
fn two(folder: &Folder, changes: &[(&str, &str)], role: Role) -> [Config; 2] {
    let with_mail = format!(
        "{BOTH}{}",
        "[mailstore]\nkind = \"lmtp\"\nserver = \"127.0.0.1:24\"\n"
    );
    let text = with_mail.as_str();
    let changed = changes.iter().fold(text.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replacen(old, new, 1)
    });
    [text, &changed].map(|text| folder.read(text, Some(role)).unwrap())
}

#[test]
fn sections_differ_by_what_they_and_their_files_say() {
    let folder = Folder::new();
    let changed = |changes: &[(&str, &str)], role| {
        let [before, after] = two(&folder, changes, role);
        before.sections.changed(&after.sections)
    };
    let none: [&str; 0] = [];
    assert_eq!(changed(&[], Role::Front), none);
    let comment = ("[nodes]\n", "# which\n[nodes]\n\n");
    assert_eq!(changed(&[comment], Role::Front), none);
    // The other process's are not looked at.
    let acceptor = ("[acceptor]\n", "[acceptor]\nmax_unproven = 7\n");
    assert_eq!(changed(&[acceptor], Role::Front), none);
    assert_eq!(changed(&[acceptor], Role::Node), ["acceptor"]);
    let tls = ("[proxy.tls]\n", "[proxy.tls]\nreload_every = \"11s\"\n");
    assert_eq!(changed(&[tls], Role::Front), ["proxy.tls"]);
    let proxy = ("[proxy]\n", "[proxy]\nmax_line = \"1KiB\"\n");
    assert_eq!(changed(&[proxy], Role::Front), ["proxy"]);
    let defence = (
        "[proxy.tls]\n",
        "[proxy.defence]\nipv6_prefix = 56\n[proxy.tls]\n",
    );
    assert_eq!(changed(&[defence], Role::Front), ["proxy.defence"]);
    // The same name, and another key behind it.
    let [before, _] = two(&folder, &[], Role::Front);
    let key = folder.0.path().join("proxy1.key");
    fs::write(&key, format!("{}\n", "fedcba9876543210".repeat(4))).unwrap();
    let [after, _] = two(&folder, &[], Role::Front);
    assert_eq!(before.sections.changed(&after.sections), ["nodes"]);
    assert!(before.sections.is_same(&after.sections, "directory"));
    assert!(!before.sections.is_same(&after.sections, "nodes"));
}

#[test]
fn what_is_settled_at_the_start_is_named() {
    let folder = Folder::new();
    let file = Path::new("file");
    let refused = |changes: &[(&str, &str)], role| {
        let [before, after] = two(&folder, changes, role);
        let checked = check_change(role, file, &before, &after);
        let problems = checked.err().map(|problems| problems.to_string());
        let problems = problems.unwrap_or_default();
        let keys = problems.lines().map(|line| {
            let (key, text) = line
                .strip_prefix("file: ")
                .unwrap()
                .split_once(": ")
                .unwrap();
            assert!(
                text.starts_with("cannot be changed by a reload, start the "),
                "{line}"
            );
            key.to_owned()
        });
        keys.collect::<Vec<_>>()
    };
    let front = |changes: &[(&str, &str)]| refused(changes, Role::Front);
    let node = |changes: &[(&str, &str)]| refused(changes, Role::Node);
    let (fine, nothing): (_, [&str; 0]) = (("[proxy]\n", "[proxy]\nmax_line = \"1KiB\"\n"), []);
    assert_eq!(front(&[fine]), nothing);
    // A listener's own flags, and the order of listeners.
    let flag = (
        "tls = \"implicit\"",
        "tls = \"starttls\"\ncleartext = \"never\"",
    );
    assert_eq!(front(&[flag]), nothing);
    let admin = (
        "[proxy]\n",
        "[log]\nformat = \"json\"\n[admin]\nfront = \"off\"\nfront_socket = \"/run/f\"\n[proxy]\n",
    );
    let process = (
        "[proxy]\n",
        "[process]\nsandbox = \"off\"\nfront_user = \"pigeonair\"\n[proxy]\n",
    );
    let listener = ("0.0.0.0:143", "0.0.0.0:144");
    assert_eq!(
        front(&[listener, process, admin]),
        [
            "log.format",
            "process.front_user",
            "process.sandbox",
            "admin.front",
            "admin.front_socket",
            "proxy.listen"
        ]
    );
    let delivery = (
        "[directory]\n",
        "[delivery]\n[[delivery.listen]]\npath = \"/run/lmtp\"\n[directory]\n",
    );
    assert_eq!(front(&[delivery]), ["delivery"]);

    let bounds = ("[acceptor]\n", "[acceptor]\nuids = [2000, 3000]\n");
    assert_eq!(node(&[bounds]), nothing);
    let tls = (
        "0.0.0.0:7143\"\n[[acceptor.key",
        "0.0.0.0:7143\"\ntls = false\n[[acceptor.key",
    );
    assert_eq!(node(&[tls]), nothing);
    let kind = (
        "kind = \"login\"\nserver = \"127.0.0.1:10143\"\nmaster_user = \"acceptor\"\nmaster_password_file = \"/etc/pigeonair/master.password\"",
        "kind = \"dovecot-imap-master\"\nsocket = \"/run/imap-master\"",
    );
    let admin = (
        "[acceptor]\n",
        "[admin]\nnode = \"off\"\nnode_socket = \"/run/n\"\n[process]\nnode_user = \"pigeonair\"\n[acceptor]\nsessions_file = \"/run/other\"\n",
    );
    let mailstore = (
        "kind = \"lmtp\"\nserver = \"127.0.0.1:24\"",
        "kind = \"maildir\"",
    );
    let path = ("path = \"/run/link.sock\"", "path = \"/run/other.sock\"");
    assert_eq!(
        node(&[kind, admin, mailstore, path]),
        [
            "process.node_user",
            "admin.node",
            "admin.node_socket",
            "acceptor.listen",
            "acceptor.sessions_file",
            "acceptor.imap.kind",
            "mailstore.kind"
        ]
    );
}

#[test]
fn where_a_process_answers_is_read_from_a_file_that_is_wrong_otherwise() {
    let folder = Folder::new();
    let path = folder.0.path().join("test.toml");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        answering(&path).map_err(|problems| problems.to_string())
    };
    let text = "[admin]\nfront_socket = \"/run/f\"\nnode = \"off\"\ncolour = 1\n\
                [proxy.tls]\nkey = \"/not/there\"\nx = 1\n";
    let found = read(text).unwrap();
    assert_eq!(found.admin.front_socket, Some(PathBuf::from("/run/f")));
    assert_eq!((found.admin.node, found.admin.node_socket), (None, None));
    assert!(found.has_front);
    let found = read("").unwrap();
    assert_eq!(found.admin, admin::Settings::default());
    assert!(!found.has_front);
    let wrong = read("[admin]\nfront_socket = 7\n").unwrap_err();
    assert!(wrong.contains("admin.front_socket: bad value"), "{wrong}");
    assert!(read("[admin").unwrap_err().contains("not TOML"));
    fs::remove_file(&path).unwrap();
    let missing = answering(&path).unwrap_err();
    assert!(missing.to_string().contains("cannot read it"), "{missing}");
}
