//! After login it is bytes: large messages both ways, IDLE, commands sent early, connections half closed.

use crate::{
    client::{Channel, Client},
    lab::{Builder, Cluster, Kind, User},
};

const LARGE: usize = 20 * 1024 * 1024;

fn people() -> [User; 2] {
    [User::new("ann", "n1", 20001), User::new("bob", "n2", 20002)]
}

/// Octets without a pattern that a lost or doubled piece could hide in, in lines.
fn large_message() -> Vec<u8> {
    let mut message = Vec::with_capacity(LARGE);
    message.extend_from_slice(b"Subject: large\r\n\r\n");
    let mut number = 0u64;
    while message.len() < LARGE - 80 {
        let scrambled = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        message
            .extend_from_slice(format!("{number:020} {scrambled:016x} and so on\r\n").as_bytes());
        number += 1;
    }
    message.resize(LARGE - 2, b'.');
    message.extend_from_slice(b"\r\n");
    message
}

fn append_and_fetch(builder: Builder, users: &[User]) {
    let cluster = users
        .iter()
        .fold(builder, |builder, user| builder.user(user))
        .start();
    let message = large_message();
    for user in users {
        for channel in [Channel::Implicit, Channel::Plain] {
            let case = format!("{channel:?} {}", user.name);
            let mut client = Client::logged_in(&cluster, channel, user);
            client.command("SELECT INBOX").ok();
            client.send(format!("a APPEND INBOX {{{}}}\r\n", message.len()));
            let line = client.line();
            assert!(line.starts_with('+'), "{case}: {line}");
            client.send(&message);
            client.send("\r\n");
            client.reply("a").ok();
            let fetched = client.command("FETCH * BODY.PEEK[]").ok();
            // Not assert_eq: nobody wants to see 40 MiB.
            assert!(
                fetched.literals == [message.as_slice()],
                "{case}: not what was appended"
            );
            client.command("LOGOUT").ok();
        }
    }
}

#[test]
fn append_and_fetch_20_mib_over_tls_links() {
    append_and_fetch(Cluster::usual(), &people());
}

#[test]
fn append_and_fetch_20_mib_over_plain_links() {
    append_and_fetch(Cluster::usual().link_tls(false), &people());
}

#[test]
fn append_and_fetch_20_mib_over_unix_sockets() {
    for kind in Kind::ALL {
        let ann = User::new("ann", "local", 20001);
        append_and_fetch(Cluster::build().single(kind), &[ann]);
    }
}

#[test]
fn idle_hears_of_new_mail() {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let cluster = Cluster::usual().user(&ann).user(&bob).start();
    for user in [&ann, &bob] {
        let mut idler = Client::logged_in(&cluster, Channel::Implicit, user);
        idler.command("SELECT INBOX").ok();
        idler.send("i IDLE\r\n");
        assert!(idler.line().starts_with('+'));
        let mut other = Client::logged_in(&cluster, Channel::Plain, user);
        other.send("a APPEND INBOX {3+}\r\nhi!\r\n");
        other.reply("a").ok();
        assert_eq!(idler.line(), "* 1 EXISTS");
        idler.send("DONE\r\n");
        idler.reply("i").ok();
    }
}

#[test]
fn commands_sent_with_the_login_are_carried_out_once_and_in_order() {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let cluster = Cluster::usual().user(&ann).user(&bob).start();
    for user in [&ann, &bob] {
        for channel in Channel::ALL {
            let mut client = Client::connect(&cluster, channel);
            let mailbox = format!("Box{channel:?}");
            client.send(format!(
                "a LOGIN {} \"{}\"\r\nb CREATE {mailbox}\r\nc APPEND {mailbox} {{4+}}\r\none!\r\n\
                 d STATUS {mailbox} (MESSAGES)\r\ne CREATE {mailbox}\r\nf LOGOUT\r\n",
                user.name, user.password
            ));
            client.reply("a").ok();
            client.reply("b").ok();
            client.reply("c").ok();
            let status = client.reply("d").ok();
            assert_eq!(
                status.untagged,
                [format!("* STATUS {mailbox} (MESSAGES 1)")]
            );
            client.reply("e").no("ALREADYEXISTS");
            client.reply("f").ok();
            assert_eq!(client.rest(), b"");
        }
    }
}

/// A client may end its direction with its last command; the answers are still its.
#[test]
fn what_is_answered_after_the_clients_end_arrives() {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let cluster = Cluster::usual().user(&ann).user(&bob).start();
    // No more than a socket takes at once: of what does not fit, Dovecot drops the rest when it logs out.
    let message = vec![b'x'; 64 * 1024];
    for user in [&ann, &bob] {
        cluster.deliver(user, &message);
        for channel in [Channel::Plain, Channel::Implicit] {
            let mut client = Client::logged_in(&cluster, channel, user);
            client.send("s SELECT INBOX\r\nf FETCH 1 BODY.PEEK[]\r\nl LOGOUT\r\n");
            client.finish_sending();
            client.reply("s").ok();
            assert!(client.reply("f").ok().literals == [message.as_slice()]);
            client.reply("l").ok();
            assert_eq!(client.rest(), b"");
        }
    }
}

/// Each session becomes its own user, one after the other and at the same time.
#[test]
fn many_users_of_one_node_at_the_same_time() {
    const USERS: u32 = 12;
    let users: Vec<User> = (0..USERS)
        .map(|number| {
            let node = if number % 2 == 0 { "n1" } else { "n2" };
            User::new(&format!("user{number}"), node, 20100 + number)
        })
        .collect();
    let cluster = users
        .iter()
        .fold(Cluster::usual(), |builder, user| builder.user(user))
        .start();
    let mut clients: Vec<Client> = users
        .iter()
        .map(|user| Client::logged_in(&cluster, Channel::Implicit, user))
        .collect();
    for (client, user) in clients.iter_mut().zip(&users) {
        let text = format!("mail of {}", user.name);
        client.send(format!("a APPEND INBOX {{{}+}}\r\n{text}\r\n", text.len()));
        client.reply("a").ok();
    }
    for (client, user) in clients.iter_mut().zip(&users) {
        client.command("SELECT INBOX").ok();
        let reply = client.command("FETCH 1:* BODY.PEEK[]").ok();
        assert_eq!(
            reply.literals,
            [format!("mail of {}", user.name).into_bytes()]
        );
    }
    drop(clients);
    // The same processes of Dovecot may be asked to serve the next ones.
    for user in &users {
        let mut client = Client::logged_in(&cluster, Channel::Plain, user);
        let reply = client.command("STATUS INBOX (MESSAGES)").ok();
        assert_eq!(reply.untagged, ["* STATUS INBOX (MESSAGES 1)"]);
        client.command("LOGOUT").ok();
    }
}
