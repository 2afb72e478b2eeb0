//! `[proxy.policy]`: its defaults, and what is wrong with it.

use super::*;
use crate::policy::{OnFailure, Settings};

const REQUIRED: &str =
    "url = 'http://127.0.0.1:8084/'\nnonce_file = '/etc/pigeonair/master.password'\n";

fn read(section: &str) -> (Settings, Vec<String>) {
    let text = format!("{BOTH}[proxy.policy]\n{section}");
    let config = Folder::new().read(&text, None).unwrap();
    let settings = config.front.unwrap().proxy.unwrap().policy;
    (settings.unwrap(), config.warnings)
}

#[test]
fn it_has_dovecots_defaults() {
    let (settings, warnings) = read(REQUIRED);
    assert_eq!(warnings, [""; 0]);
    assert_eq!(settings.hash_bits, 12);
    assert!(settings.check_before && settings.report_after);
    assert_eq!(settings.timeout, Duration::from_secs(2));
    assert_eq!(settings.on_failure, OnFailure::Accept);
    assert!(settings.header.is_none() && settings.ca_file.is_none());
    let (settings, _) = read(&format!(
        "{REQUIRED}hash_bits = 0\ncheck_before = false\non_failure = 'reject'\nmax_tarpit = '0s'\n\
         header_file = '/etc/pigeonair/ldap.password'\nca_file = '/etc/pigeonair/none'\n"
    ));
    assert_eq!(settings.on_failure, OnFailure::Reject);
    assert_eq!(
        (settings.hash_bits, settings.max_tarpit),
        (0, Duration::ZERO)
    );
    // The whole file is the value of the header that Dovecot has for it.
    assert_eq!(
        format!("{:?}", settings.header),
        "Some(Header(x-api-key: ..))"
    );
    let (_, warnings) = read(&REQUIRED.replace("127.0.0.1", "wf.example.org"));
    assert_eq!(
        warnings,
        ["proxy.policy.url: who logs in from where goes over the network in clear"]
    );
}

#[test]
fn what_is_wrong_with_it_is_said() {
    let folder = Folder::new();
    let problems = |section: &str| {
        let text = format!("{BOTH}[proxy.policy]\n{section}");
        folder.problems(&text, None)
    };
    assert_eq!(
        problems(""),
        [
            "proxy.policy.url: missing (expected \"http://host[:port][/path]\" or \"https://...\")",
            "proxy.policy.nonce_file: missing (expected the path of a file with a password)",
        ]
    );
    assert_eq!(
        problems(
            "url = 'http://user:password@host/'\nnonce_file = '/etc/pigeonair/open.key'\nhash_bits = 257\n\
             header_file = '/etc/pigeonair/privkey.pem'\non_failure = 'tempfail'\nurls = 1\n"
        ),
        [
            "proxy.policy.url: bad value (got other text; expected \"http://host[:port][/path]\" or \"https://...\")",
            "proxy.policy.nonce_file: /etc/pigeonair/open.key has mode 0644 (expected 0600 or 0640: nobody but owner and group may open it)",
            "proxy.policy.header_file: does not hold a header (expected \"Name: value\", or the value of X-API-Key)",
            "proxy.policy.hash_bits: bad value (got 257; expected a whole number from 0 to 256)",
            "proxy.policy.on_failure: bad value (got \"tempfail\"; expected \"accept\" or \"reject\")",
            "proxy.policy.urls: unknown key, did you mean url?",
        ]
    );
    let section = "url = 'https://wf.example.org'\nnonce_file = '/etc/pigeonair/master.password'\n\
                   ca_file = '/etc/pigeonair/none'\n";
    let said = problems(section);
    assert!(
        said[0].starts_with("proxy.policy.ca_file: cannot read a certificate"),
        "{said:?}"
    );
}
