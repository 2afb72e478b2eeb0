//! One machine without LDAP: accounts in a file, front and node on a Unix socket.

use std::fs;

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, User, eventually},
    pop3::say,
    smtp::Smtp,
};

fn works(kind: Kind) {
    let ann = User::new("ann", "local", 20001);
    let bob = User::new("bob", "local", 20002);
    let off = User::new("off", "local", 20003).status("disabled");
    let cluster = Cluster::build()
        .single(kind)
        .user(&ann)
        .user(&bob)
        .user(&off)
        .start();
    let message = b"Subject: hi\r\n\r\nhere\r\n";
    for user in [&ann, &bob] {
        cluster.deliver(user, message);
        for channel in Channel::ALL {
            for method in Method::ALL {
                let mut client = Client::connect(&cluster, channel);
                client.login(method, &user.name, &user.password).ok();
                client.command("SELECT INBOX").ok();
                let reply = client.command("FETCH 1 BODY.PEEK[]").ok();
                assert_eq!(reply.literals, [message]);
                client.command("LOGOUT").ok();
            }
        }
        let heard = say(
            &cluster,
            &format!(
                "USER {}\r\nPASS {}\r\nRETR 1\r\nQUIT\r\n",
                user.name, user.password
            ),
        );
        assert!(
            heard.contains("octets\r\nSubject: hi\r\n\r\nhere\r\n.\r\n"),
            "{heard}"
        );
    }
    let mut client = Client::connect(&cluster, Channel::Implicit);
    for (name, password) in [
        ("ann", "wrong"),
        ("nobody", "wrong"),
        ("off", off.password.as_str()),
    ] {
        client
            .login(Method::Login, name, password)
            .no("AUTHENTICATIONFAILED");
    }
}

#[test]
fn kind_login() {
    works(Kind::Login);
}

#[test]
fn kind_imap_master() {
    works(Kind::ImapMaster);
}

#[test]
fn kind_exec() {
    works(Kind::Exec);
}

/// Delivery and home on one machine: the link is the Unix socket.
#[test]
fn mail_comes_over_the_same_socket() {
    let ann = User::new("ann", "local", 20001);
    let off = User::new("off", "local", 20002).status("disabled");
    let cluster = Cluster::build()
        .single(Kind::Login)
        .delivery("")
        .user(&ann)
        .user(&off)
        .start();
    let message = b"Subject: hi\r\n\r\nhere\r\n";
    let mut client = Smtp::connect_unix(&cluster.lmtp_socket());
    client.command("LHLO client.example.net").says("250-");
    let heard = client.deliver("sender@example.net", &["Ann+x@example.org"], message);
    heard[0].says("250 2.0.0 ");
    client.command("MAIL FROM:<>").says("250 ");
    for (address, reply) in [
        ("off@example.org", "550 5.2.1 "),
        ("nobody@example.org", "550 5.1.1 "),
        ("ann@elsewhere.example", "550 5.1.1 "),
    ] {
        let command = format!("RCPT TO:<{address}>");
        client.command(&command).says(reply);
    }
    let inbox = cluster.inbox(&ann);
    assert_eq!(inbox.len(), 1);
    assert!(inbox[0].ends_with(message));
}

#[test]
fn an_alias_is_the_account() {
    let ann = User::new("ann", "local", 20001);
    let cluster = Cluster::build().single(Kind::ImapMaster).user(&ann).start();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    client
        .login(Method::Login, "ann@example.org", &ann.password)
        .ok();
    client.command("LOGOUT").ok();
    drop(client);
    eventually("the session is the account's", || {
        cluster.sessions("ann").len() == 1
    });
}

#[test]
fn an_account_written_into_the_file_logs_in() {
    let ann = User::new("ann", "local", 20001);
    let mut cluster = Cluster::build().single(Kind::ImapMaster).user(&ann).start();
    Client::logged_in(&cluster, Channel::Plain, &ann);
    let eve = User::new("eve", "local", 20004);
    cluster.add_to_file(&eve);
    eventually("the file is read again", || {
        let mut client = Client::connect(&cluster, Channel::Plain);
        let reply = client.login(Method::Login, &eve.name, &eve.password);
        reply.status.starts_with("OK")
    });
    assert!(fs::exists(cluster.home(&eve)).unwrap());
}
