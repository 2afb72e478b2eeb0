//! Names that mean something to whoever puts them into a filter, a format, a path or a query.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{answer, cluster, filters, say};
use crate::{
    client::{Channel, Client, Method},
    lab::MASTER_PASSWORD,
};

const DENIED: &str = "NO [AUTHENTICATIONFAILED]";

/// Names that are patterns, filters, DNs or escapes: through the running front they find nobody, and the directory is asked
/// for each as it stands.
#[test]
fn no_name_is_a_filter() {
    let (cluster, [ann, bob]) = cluster("max_attempts = 1000\nfailure_delay = \"1ms\"");
    let own = filters(&cluster);
    let names = [
        "*",
        "a*",
        "*n",
        "a*n",
        "an?",
        "ann*",
        "\\2a",
        "a\\2a",
        "\\61nn",
        "ann\\00",
        "\\61\\6e\\6e",
        ")(uid=*",
        "ann)(uid=*",
        "ann)(|(uid=*",
        "*)(uid=*))(|(uid=*",
        "ann))(|(uid=bob",
        "*)(&",
        "(uid=ann)",
        "ann)(objectClass=*)",
        "ann,ou=people,dc=example,dc=org",
        "uid=ann,ou=people,dc=example,dc=org",
        "ann\\,ou=people",
        "ann;x",
        "ann+uid=bob",
        "ann#",
        "%u",
        "%{uid}",
        "$u",
        "{login}",
        "ann@*",
        "*@example.org",
        "u2*@example.org",
        "&",
        "|",
        "!",
        "~=",
        ">=a",
        "<=z",
        ":=",
        "ann:caseExactMatch:=ann",
        "\u{ff0a}",
        "a\u{0430}nn",
        "\u{200b}ann",
        "ann\u{2028}",
    ];
    for (number, name) in names.into_iter().enumerate() {
        for user in [&ann, &bob] {
            let mut client = Client::connect(&cluster, Channel::Plain);
            let reply = client.login(Method::ALL[number % 3], name, &user.password);
            assert!(reply.status.starts_with(DENIED), "{name:?}: {reply:?}");
            let heard = say(
                cluster.pop3(),
                [&format!("USER {name}"), &format!("PASS {}", user.password)],
            );
            assert!(
                heard.ends_with("-ERR [AUTH] Wrong user name or password.\r\n"),
                "{name:?}: {heard}"
            );
        }
    }
    for filter in filters(&cluster).difference(&own) {
        // One assertion for the name, whatever it is made of: not a presence, substring or further one.
        let values = filter.matches("(uid=").count();
        assert!(values <= 1, "{filter}");
        let wild = filter
            .replace("(objectClass=*)", "")
            .replace("\\2A", "")
            .replace("\\2a", "");
        assert!(!wild.contains('*'), "{filter}");
    }
    assert!(!filters(&cluster).is_subset(&own), "nobody was looked for");
    for user in [&ann, &bob] {
        assert_eq!(cluster.sessions(&user.name), Vec::<String>::new());
        Client::logged_in(&cluster, Channel::Plain, user);
    }
}

/// A name is printed, compared and put into paths by many: here it is a value, and nobody's.
#[test]
fn format_strings_and_paths_are_names() {
    let (cluster, [ann, _]) = cluster("max_attempts = 1000\nfailure_delay = \"1ms\"");
    let names = [
        "%n%n%n%n",
        "%s%s%s%s%s%s",
        "%99999999d",
        "%n%s",
        "%x.%x.%x",
        "{}",
        "{0}",
        "{:?}",
        "${HOME}",
        "$(id)",
        "`id`",
        "|id",
        ";id",
        "../../etc/passwd",
        "../ann",
        "..",
        ".",
        "/",
        "/etc/passwd",
        "ann/../bob",
        "ann/",
        "~root",
        "~",
        "ann\\..\\bob",
        "C:\\x",
        "<script>x</script>",
        "' OR '1'='1",
        "ann'--",
        "\"; DROP",
        "root",
        "0",
        "-1",
        "--",
        "-f",
        "ann%00",
        "ann%0d%0a",
        "%2e%2e%2f",
        "ann\u{202e}bob",
        "\u{1f54a}",
        "(null)",
        "NIL",
    ];
    for (number, name) in names.into_iter().enumerate() {
        let mut client = Client::connect(&cluster, Channel::Plain);
        let reply = client.login(Method::ALL[number % 3], name, &ann.password);
        assert!(reply.status.starts_with(DENIED), "{name:?}: {reply:?}");
    }
    // As a tag, which comes back as it went or not at all.
    for tag in ["%n%n%s%x", "%s", "$(id)", "..", "\"x\"", "<b>"] {
        let heard = answer(cluster.imap(), format!("{tag} NOOP\r\n"));
        let lawful = !tag.contains(['%', '(', '"']);
        let begin = if lawful {
            format!("{tag} OK")
        } else {
            "* BAD".to_owned()
        };
        assert!(heard.starts_with(&begin), "{tag}: {heard}");
    }
    Client::logged_in(&cluster, Channel::Plain, &ann)
        .command("SELECT INBOX")
        .ok();
    assert!(
        !cluster.dovecot_log("n1").contains("passwd"),
        "{}",
        cluster.dovecot_log("n1")
    );
}

/// What a node logs in to its real server with opens nothing at the front, whose passwords are the directory's.
#[test]
fn the_master_user_is_nobody_here() {
    let (cluster, [ann, bob]) = cluster("max_attempts = 1000\nfailure_delay = \"1ms\"");
    for name in [
        "acceptor",
        "ann*acceptor",
        "acceptor*ann",
        "ann%acceptor",
        "ann@acceptor",
        "ann/acceptor",
    ] {
        for method in Method::ALL {
            let mut client = Client::connect(&cluster, Channel::Plain);
            let reply = client.login(method, name, MASTER_PASSWORD);
            assert!(reply.status.starts_with(DENIED), "{name}: {reply:?}");
        }
    }
    let mut client = Client::connect(&cluster, Channel::Plain);
    for (authorize, name, password) in [
        ("ann", "acceptor", MASTER_PASSWORD),
        ("ann", "ann", MASTER_PASSWORD),
        ("acceptor", "ann", MASTER_PASSWORD),
        ("", "ann", MASTER_PASSWORD),
        ("acceptor", "ann", &ann.password),
        ("bob", "ann", &ann.password),
        ("bob", "ann", &bob.password),
        ("ann*acceptor", "ann", &ann.password),
    ] {
        let response = STANDARD.encode(format!("{authorize}\0{name}\0{password}"));
        let reply = client.command(&format!("AUTHENTICATE PLAIN {response}"));
        assert!(
            reply.status.starts_with("NO [A"),
            "{authorize} {name}: {reply:?}"
        );
    }
    client
        .login(Method::PlainInitial, &ann.name, &ann.password)
        .ok();
}
