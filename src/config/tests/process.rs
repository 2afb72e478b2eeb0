//! Who the processes become, and that their files are read as they.

use super::*;

fn with(lines: &str) -> String {
    format!("[process]\n{lines}\n{BOTH}")
}

#[test]
fn users_and_groups_are_found_by_name_and_number() {
    let folder = Folder::new();
    let pigeonair = |name: &str, uid, gid, groups: &[u32]| User {
        name: name.to_owned(),
        uid,
        gid,
        groups: groups.to_vec(),
    };
    for (lines, expected) in [
        (
            "front_user = 'pigeonair'",
            pigeonair("pigeonair", 123, 123, &[8, 101]),
        ),
        (
            "front_user = 123",
            pigeonair("pigeonair", 123, 123, &[8, 101]),
        ),
        (
            "front_user = 'pigeonair'\nfront_group = 'ssl-cert'",
            pigeonair("pigeonair", 123, 101, &[8, 101]),
        ),
        (
            "front_user = 4711\nfront_group = 'mail'",
            pigeonair("4711", 4711, 8, &[]),
        ),
        (
            "front_user = 4711\nfront_group = 12",
            pigeonair("4711", 4711, 12, &[]),
        ),
    ] {
        let config = folder.read(&with(lines), None).unwrap();
        assert_eq!(config.process.front_user, Some(expected), "{lines}");
        assert_eq!(config.process.node_user, None);
    }
    let config = folder.read(&with("node_user = 'pigeonair'"), None).unwrap();
    assert_eq!(config.process.front_user, None);
    assert_eq!(config.process.node_user.unwrap().uid, 123);
    // Who connects to a Unix socket of a node may be the node's user.
    assert_eq!(config.node.unwrap().gate.peers, [0, 123]);
}

#[test]
fn users_that_are_unknown_or_root_are_problems() {
    let folder = Folder::new();
    for (lines, expected) in [
        (
            "front_user = 'nobody'",
            "process.front_user: unknown (got \"nobody\"; expected a name in /etc/pigeonair/passwd)",
        ),
        (
            "node_user = 'pigeonair'\nnode_group = 'pigeons'",
            "process.node_group: unknown (got \"pigeons\"; expected a name in /etc/pigeonair/group)",
        ),
        (
            "front_user = 'root'",
            "process.front_user: bad value (got 0; expected a user of its own, not root)",
        ),
        (
            "front_user = 'broken'",
            "process.front_user: has no group that is a number in /etc/pigeonair/passwd",
        ),
        (
            "front_user = 4711",
            "process.front_group: missing (expected a group, for a user that is in no list)",
        ),
        (
            "node_group = 'mail'",
            "process.node_group: not used without node_user",
        ),
        (
            "front_user = true",
            "process.front_user: bad value (got true; expected the name of a user of this machine, or its number)",
        ),
    ] {
        assert_eq!(folder.problems(&with(lines), None), [expected], "{lines}");
    }
    // A user of the other process is not looked for.
    let config = folder.read(&with("front_user = 'nobody'"), Some(Role::Node));
    assert_eq!(config.unwrap().process.front_user, None);
}

/// As root reads it.
fn read_by_root(folder: &Folder, lines: &str) -> Result<Config, Problems> {
    let path = folder.0.path().join("test.toml");
    fs::write(&path, folder.place(&with(lines))).unwrap();
    let system = System {
        uid: 0,
        ..folder.system()
    };
    read(&path, Some(Role::Front), &system)
}

#[test]
fn root_reads_files_as_the_user_that_it_becomes() {
    let folder = Folder::new();
    let dir = folder.0.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let problems = read_by_root(&folder, "front_user = 'pigeonair'").unwrap_err();
    let problems = problems.to_string();
    let expected = format!(
        "nodes.node[1].key_file: cannot read {}/proxy1.key: Permission denied (os error 13), \
         read as user pigeonair (uid 123, gid 123)",
        dir.display()
    );
    assert!(problems.contains(&expected), "{problems}");
    // A file of its own, and one of root's that a group of its may read.
    let [key, link] = ["privkey.pem", "proxy1.key"].map(|name| dir.join(name));
    std::os::unix::fs::chown(&key, Some(123), Some(123)).unwrap();
    std::os::unix::fs::chown(&link, Some(0), Some(101)).unwrap();
    let config = read_by_root(&folder, "front_user = 'pigeonair'").unwrap();
    assert_eq!(config.warnings, [""; 0]);
    // Root itself does not trust a file of somebody's who is nobody to this process.
    let problems = read_by_root(&folder, "").unwrap_err().to_string();
    assert!(problems.contains("belongs to uid 123"), "{problems}");
    assert!(rustix::process::geteuid().is_root());
}

#[test]
fn processes_meet_their_successors_at_places_of_their_own() {
    let folder = Folder::new();
    let lines = "front_upgrade_socket = '/run/f'\nnode_upgrade_socket = '/run/n'\nupgrade_drain_timeout = '7days'";
    let process = folder.read(&with(lines), None).unwrap().process;
    let place = |role| process.upgrade_socket(role).unwrap().to_str().unwrap();
    assert_eq!(
        [place(Role::Front), place(Role::Node)],
        ["/run/f", "/run/n"]
    );
    assert_eq!(process.upgrade_drain_timeout, 7 * DAY);
    let process = folder.read(&with(""), None).unwrap().process;
    assert_eq!(process.upgrade_socket(Role::Front), None);
    assert_eq!(process.upgrade_drain_timeout, 2 * HOUR);
    for (lines, expected) in [
        (
            "front_upgrade_socket = '/run/f'\nnode_upgrade_socket = '/run/f'",
            "process.node_upgrade_socket: taken already by process.front_upgrade_socket",
        ),
        (
            "front_upgrade_socket = 'f:1'",
            "process.front_upgrade_socket: bad value",
        ),
        (
            "upgrade_drain_timeout = '8days'",
            "process.upgrade_drain_timeout: bad value",
        ),
    ] {
        let problems = folder.read(&with(lines), None).unwrap_err().to_string();
        assert!(problems.contains(expected), "{problems}");
    }
}

#[test]
fn a_file_of_orders_that_would_not_be_understood_is_a_problem() {
    let folder = Folder::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("orders.json");
    let read = || {
        let text = format!("[admin]\norders_file = '{}'\n{BOTH}", file.display());
        let read = folder.read(&text, None);
        read.map(drop).map_err(|problems| problems.to_string())
    };
    assert_eq!(read(), Ok(()));
    fs::write(&file, "held = 1").unwrap();
    let wrong = read().unwrap_err();
    let expected = format!("admin.orders_file: {} is no file of orders", file.display());
    assert!(wrong.contains(&expected), "{wrong}");
    fs::remove_file(&file).unwrap();
    drop(dir);
    let wrong = read().unwrap_err();
    assert!(wrong.contains("No such file or directory"), "{wrong}");
}
