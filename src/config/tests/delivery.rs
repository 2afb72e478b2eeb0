//! `[delivery]`: alone, beside the proxy, and with something wrong in it.

use super::*;
use crate::delivery::Listener;

const DELIVERY: &str = "
[delivery]
[[delivery.listen]]
address = '127.0.0.1:24'
[[delivery.listen]]
path = '/run/lmtp'
mode = '0660'
";

/// [`BOTH`] with a delivery role.
fn with(old: &str, new: &str) -> String {
    assert!(DELIVERY.contains(old), "{old}");
    format!("{BOTH}{}", DELIVERY.replacen(old, new, 1))
}

#[test]
fn it_runs_beside_the_proxy_and_alone() {
    let folder = Folder::new();
    let front = folder.read(&with("", ""), None).unwrap().front.unwrap();
    let settings = front.delivery.unwrap();
    assert!(front.proxy.is_some());
    assert_eq!(
        settings.listeners,
        [
            Listener::Tcp("127.0.0.1:24".parse().unwrap()),
            Listener::Unix {
                path: "/run/lmtp".into(),
                mode: 0o660
            }
        ]
    );
    let from: Vec<_> = settings.from.iter().map(ToString::to_string).collect();
    assert_eq!(from, ["127.0.0.0/8", "::1/128"]);
    let system = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(settings.lmtp.hostname, system.trim());
    let (_, rest) = BOTH.split_once("[directory]").unwrap();
    let alone = format!("[directory]{rest}{DELIVERY}");
    let front = folder.read(&alone, None).unwrap().front.unwrap();
    assert!(front.proxy.is_none() && front.delivery.is_some());
}

#[test]
fn it_is_checked() {
    let folder = Folder::new();
    for (old, new, expected) in [
        (
            "[delivery]",
            "[delivery]\nhostname = 'a b'\nmax_message_size = 10\nspool_folder = '/etc/passwd'\nqueue = 1",
            &[
                "delivery.max_message_size: bad value (got 10; expected a size from 1024 to 1099511627776 octets, as 8192 or \"8KiB\")",
                "delivery.hostname: bad value (got \"a b\"; expected a host name)",
                "delivery.spool_folder: /etc/passwd is not a folder",
                "delivery.queue: unknown key",
            ][..],
        ),
        (
            "address = '127.0.0.1:24'",
            "address = '127.0.0.1:24'\nmode = '0600'",
            &["delivery.listen[1].mode: only a Unix socket has one"],
        ),
        (
            "address = '127.0.0.1:24'",
            "",
            &["delivery.listen[1].address: missing (expected an address to listen on, or a path)"],
        ),
        (
            "path =",
            "address = '127.0.0.1:25'\npath =",
            &["delivery.listen[2].path: one listener cannot have both (expected address or path)"],
        ),
        (
            "'0660'",
            "'0888'",
            &[
                "delivery.listen[2].mode: bad value (got \"0888\"; expected a mode in octal digits, as \"0660\")",
            ],
        ),
        (
            "127.0.0.1:24",
            "0.0.0.0:143",
            &[
                "delivery.listen[1].address: taken already by proxy.listen[1].address (got 0.0.0.0:143 beside 0.0.0.0:143; expected an address of its own)",
            ],
        ),
    ] {
        assert_eq!(folder.problems(&with(old, new), None), expected, "{new}");
    }
}

#[test]
fn mail_from_anywhere_is_a_warning() {
    let text = with(
        "[delivery]",
        "[delivery]\nfrom = ['10.0.0.0/8', '0.0.0.0/0']",
    );
    assert_eq!(
        Folder::new().read(&text, None).unwrap().warnings,
        ["delivery.from: whoever reaches a listener may give mail to anybody here"]
    );
}
