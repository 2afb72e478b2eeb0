//! Credentials that are wrong or not wanted, and what somebody on the wire gets out of STARTTLS.

use std::time::{Duration, Instant};

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, User, eventually},
};

fn people() -> [User; 3] {
    [
        User::new("ann", "n1", 20001),
        User::new("bob", "n2", 20002),
        User::new("off", "n1", 20003).status("disabled"),
    ]
}

fn cluster() -> (Cluster, [User; 3]) {
    let people = people();
    let cluster = people
        .iter()
        .fold(Cluster::usual(), |builder, user| builder.user(user))
        .proxy("max_attempts = 5")
        .start();
    (cluster, people)
}

#[test]
fn wrong_password_unknown_user_and_disabled_account_sound_the_same() {
    let (cluster, [ann, _, off]) = cluster();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    let mut words = Vec::new();
    for (name, password) in [
        (ann.name.as_str(), "not the password"),
        ("nobody", "not the password"),
        (off.name.as_str(), off.password.as_str()),
        (off.name.as_str(), "not the password"),
    ] {
        let start = Instant::now();
        let reply = client
            .login(Method::PlainInitial, name, password)
            .no("AUTHENTICATIONFAILED");
        // [proxy] failure_delay of these clusters is 300 ms.
        assert!(
            start.elapsed() >= Duration::from_millis(290),
            "{name}: told too early"
        );
        words.push(reply.status);
    }
    words.dedup();
    assert_eq!(words.len(), 1, "{words:?}");
    // And after all that, the right one is still welcome.
    client.login(Method::Login, &ann.name, &ann.password).ok();
    client.command("SELECT INBOX").ok();
}

/// What cannot be said to be wrong is said no sooner than what can.
#[test]
fn a_broken_entry_is_answered_no_sooner_than_a_wrong_password() {
    let broken = User::new("broken", "n1", 20001).home("a\u{1}b");
    let later = User::new("later", "n1", 20002).status("maintenance");
    let cluster = Cluster::usual().user(&broken).user(&later).start();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    for (name, answer) in [
        (&broken.name, "UNAVAILABLE"),
        (&later.name, "AUTHENTICATIONFAILED"),
    ] {
        let start = Instant::now();
        client
            .login(Method::PlainInitial, name, "not the password")
            .no(answer);
        assert!(
            start.elapsed() >= Duration::from_millis(290),
            "{name}: told too early"
        );
    }
}

#[test]
fn too_many_tries_end_the_connection() {
    let (cluster, [ann, ..]) = cluster();
    let mut client = Client::connect(&cluster, Channel::Plain);
    for _ in 0..5 {
        client
            .login(Method::Login, &ann.name, "guess")
            .no("AUTHENTICATIONFAILED");
    }
    let rest = String::from_utf8(client.rest()).unwrap();
    assert!(rest.starts_with("* BYE"), "{rest}");
}

#[test]
fn no_empty_password_is_ever_right() {
    let (cluster, [ann, bob, _]) = cluster();
    for user in [&ann, &bob] {
        for method in Method::ALL {
            let mut client = Client::connect(&cluster, Channel::Plain);
            let reply = client.login(method, &user.name, "");
            assert!(!reply.status.starts_with("OK"), "{method:?}: {reply:?}");
        }
    }
}

#[test]
fn an_authorization_identity_must_be_the_same_account() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let (cluster, [ann, bob, _]) = cluster();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    let mail = format!("u{}@example.org", ann.uid);
    for (authorize, password, answer) in [
        (
            bob.name.as_str(),
            ann.password.as_str(),
            "NO [AUTHORIZATIONFAILED]",
        ),
        ("nobody", &ann.password, "NO [AUTHORIZATIONFAILED]"),
        // Whoever does not know the password learns nothing about other accounts.
        (&bob.name, "wrong", "NO [AUTHENTICATIONFAILED]"),
        ("nobody", "wrong", "NO [AUTHENTICATIONFAILED]"),
        (&mail, &ann.password, "OK"),
    ] {
        let response = STANDARD.encode(format!("{authorize}\0{}\0{password}", ann.name));
        let reply = client.command(&format!("AUTHENTICATE PLAIN {response}"));
        assert!(reply.status.starts_with(answer), "{authorize}: {reply:?}");
    }
    client.command("SELECT INBOX").ok();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    let response = STANDARD.encode(format!("{0}\0{0}\0{1}", ann.name, ann.password));
    client
        .command(&format!("AUTHENTICATE PLAIN {response}"))
        .ok();
}

#[test]
fn passwords_in_clear_are_refused_where_they_are_not_wanted() {
    let (cluster, [ann, ..]) = cluster();
    let mut client = Client::connect_to(cluster.imap_private());
    let capabilities = client.command("CAPABILITY").ok().untagged.concat();
    assert!(capabilities.contains("LOGINDISABLED"), "{capabilities}");
    assert!(capabilities.contains("STARTTLS"), "{capabilities}");
    assert!(!capabilities.contains("AUTH=PLAIN"), "{capabilities}");
    client
        .login(Method::Login, &ann.name, &ann.password)
        .no("PRIVACYREQUIRED");
    client
        .login(Method::PlainInitial, &ann.name, &ann.password)
        .no("PRIVACYREQUIRED");
    client.command("STARTTLS").ok();
    client.encrypt(&cluster);
    let capabilities = client.command("CAPABILITY").ok().untagged.concat();
    assert!(!capabilities.contains("LOGINDISABLED"), "{capabilities}");
    assert!(!capabilities.contains("STARTTLS"), "{capabilities}");
    client.login(Method::Login, &ann.name, &ann.password).ok();
}

/// Octets that came in clear behind STARTTLS are nobody's: not executed under TLS, not answered.
#[test]
fn what_was_injected_behind_starttls_is_never_carried_out() {
    let (cluster, [ann, ..]) = cluster();
    let mut client = Client::connect_to(cluster.imap_private());
    client.send(format!(
        "a STARTTLS\r\nb LOGIN {} \"{}\"\r\nc NOOP\r\n",
        ann.name, ann.password
    ));
    let status = client.line();
    if !status.starts_with("a OK") {
        // To refuse the command or to leave is as good.
        let rest = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(
            !rest.contains("b OK") && !rest.contains("c OK"),
            "{status} {rest}"
        );
        return;
    }
    client.encrypt(&cluster);
    client.send("d NOOP\r\n");
    let first = client.line();
    assert!(
        first.starts_with("d OK"),
        "answered what came in clear: {first}"
    );
    client.login(Method::Login, &ann.name, &ann.password).ok();
}

/// Names and passwords that break a filter, a DN, a quoted string or a log line when somebody forgets to escape.
#[test]
fn odd_names_and_passwords() {
    let long = "0123456789".repeat(20);
    let long_name = "abcdefghij".repeat(20);
    let odd = [
        ("o'dd name", "spaces in  between "),
        ("quo\"te", "\"quoted\" and \\back\\slashed\\"),
        ("back\\slash", "\\\\\""),
        (
            "j\u{f6}rg",
            "p\u{e4}ssw\u{f6}rd \u{1f54a}\u{fe0f} \u{65e5}\u{672c}",
        ),
        ("star*", "*)(|(uid=*)"),
        ("paren)(", "))))((((*"),
        ("a,b+c=d;e<f>#g", "no {literal+} of {5}"),
        ("at.sign", long.as_str()),
        ("percent%u", "%u%p%w %%s"),
        (long_name.as_str(), "of a name of 200 octets"),
    ];
    let users: Vec<User> = (0..)
        .zip(odd)
        .map(|(number, (name, password))| {
            let node = if number % 2 == 0 { "n1" } else { "n2" };
            User::new(name, node, 20200 + number).password(password)
        })
        .collect();
    let mut builder = Cluster::usual();
    for user in &users {
        builder = builder.user(user);
    }
    let cluster = builder.start();
    for user in &users {
        for method in Method::ALL {
            let case = format!("{method:?} {:?} {:?}", user.name, user.password);
            let mut client = Client::connect(&cluster, Channel::Plain);
            let reply = client.login(method, &user.name, &user.password);
            assert!(reply.status.starts_with("OK"), "{case}: {reply:?}");
            let reply = client.command("SELECT INBOX");
            assert!(reply.status.starts_with("OK"), "{case}: {reply:?}");
            client.command("LOGOUT").ok();
        }
    }
    // Each of them is one account: none of these is a pattern that finds another one.
    for name in ["*", "star", "o*", ")(uid=*", "star*)(uid=*", "paren)", "%u"] {
        let mut client = Client::connect(&cluster, Channel::Plain);
        client
            .login(Method::PlainInitial, name, &users[0].password)
            .no("AUTHENTICATIONFAILED");
    }
}

/// A name is never cut at an octet that something behind us would take for its end.
#[test]
fn control_characters_in_a_name_are_refused() {
    let (cluster, [ann, ..]) = cluster();
    for name in ["ann\0", "ann\0x", "ann\x01", "ann\t", "ann\x7f", "ann\r\nx"] {
        for method in [Method::Login, Method::PlainInitial] {
            let mut client = Client::connect(&cluster, Channel::Plain);
            let reply = client.login(method, name, &ann.password);
            assert!(
                !reply.status.starts_with("OK"),
                "{name:?} {method:?}: {reply:?}"
            );
        }
    }
}

#[test]
fn refusals_are_logged_with_their_reason() {
    let (cluster, [_, _, off]) = cluster();
    let mut client = Client::connect(&cluster, Channel::Plain);
    client
        .login(Method::Login, &off.name, &off.password)
        .no("AUTHENTICATIONFAILED");
    eventually(
        "the log tells an account that is disabled from a wrong password",
        || {
            cluster
                .front_log()
                .lines()
                .any(|line| line.contains("login=off ") && line.contains("may not log in"))
        },
    );
}
