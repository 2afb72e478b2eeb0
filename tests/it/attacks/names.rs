//! Names that mean something to whoever puts them into a filter, a format, a path or a query.

use super::{answer, cluster, filters, say};
use crate::client::{Channel, Client, Method};

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
