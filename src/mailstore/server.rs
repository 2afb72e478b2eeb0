//! The kind `lmtp`: the message goes on to the node's own server as it comes.
//!
//! ```text
//! Begin ─ MAIL, RCPT, DATA to the server ─┬─ 354 ─> header held back ─> no loop ─> octets ─ dot ─> answers
//!                                         │              └─ loop: close, and begin again for the others
//!                                         └─ all refused: the reply to DATA, or one for each behind the dot
//! ```
//!
//! The server is asked before the front hears 354, so that a message that nobody takes is not sent. All recipients of a
//! message go in one transaction; their replies are passed on. The connection is kept for the link's next message; one that died
//! meanwhile is replaced once, for nothing of the message was sent. Behind that, what a broken connection leaves is an answer:
//! 451 4.3.0 before the dot, for the server has nothing then, and 451 4.4.2 behind it, for nobody knows.
//!
//! A header that was here before is refused for that recipient (`header`). To a server that is another delivery of ours the
//! message's facts are said, so that it counts hops.
//!
//! Limits: 256 KiB of a header; the octets of one piece. It stores nothing itself, and makes no bounces.

use tokio::time::timeout;

use super::{
    Message, Naming, ServerSettings,
    header::Header,
    report::{Reporter, Target, Verdict},
};
use crate::{
    lmtp::{Begun, Interrupted, Reception, Timeouts, Transfer, TransferError},
    net,
    outcome::chain,
    proto::lmtp::{Address, Cause, Envelope, Event, Fate, Recipient, Reply, SendError, client},
};

/// Brings messages to the node's server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) settings: ServerSettings,
    pub(super) client: client::Settings,
    pub(super) timeouts: Timeouts,
}

/// A message on its way to the server, for the recipients at these places of its envelope.
#[derive(Debug)]
struct Sending {
    transfer: Transfer,
    places: Vec<usize>,
}

/// What is known of a message so far.
#[derive(Debug)]
struct Passage<'m> {
    message: &'m mut Message,
    /// What the server is told of each recipient.
    told: Vec<Option<Address>>,
    verdicts: Vec<Option<Verdict>>,
    sending: Option<Sending>,
    header: Option<Header>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("cannot connect to {0}")]
    Connect(net::Address, #[source] std::io::Error),
    #[error("{0} does not serve")]
    Greet(net::Address, #[source] TransferError),
    #[error("{0} does not answer")]
    TimedOut(net::Address),
}

impl Server {
    /// A fresh connection, greeted.
    pub(super) async fn connect(&self) -> Result<Transfer, ConnectError> {
        let address = || self.settings.server.clone();
        let connect = async {
            let stream = net::connect(&self.settings.server)
                .await
                .map_err(|error| ConnectError::Connect(address(), error))?;
            Transfer::greet(stream, self.client.clone(), self.timeouts)
                .await
                .map_err(|error| ConnectError::Greet(address(), error))
        };
        timeout(self.settings.server_timeout, connect)
            .await
            .unwrap_or_else(|_| Err(ConnectError::TimedOut(address())))
    }

    /// Takes a message, passes it on and answers. `kept` is the link's connection to the server between messages.
    pub(super) async fn receive(
        &self,
        kept: &mut Option<Transfer>,
        reception: &mut Reception<Target>,
        mut message: Message,
        reporter: &Reporter,
    ) -> Result<(), Interrupted> {
        let mut passage = self.open(&mut message);
        let places = (0..passage.verdicts.len()).collect();
        self.begin(kept, &mut passage, places).await;
        if let Some(reply) = passage.one_refusal() {
            reception.refuse(&reply);
            passage.tell(reporter);
            return Ok(());
        }
        reception.accept_message();
        let end = self.pass(kept, reception, &mut passage).await;
        match &end {
            Ok(None) => {
                for verdict in passage.verdicts.iter().flatten() {
                    reception.answer(&verdict.reply());
                }
            }
            Ok(Some(cause)) => passage.settle(&Verdict::Failed(*cause, "discarded".to_owned())),
            Err(error) => passage.settle(&Verdict::Broken(chain(error))),
        }
        passage.tell(reporter);
        end.map(|_| ())
    }

    fn open<'m>(&self, message: &'m mut Message) -> Passage<'m> {
        let told: Vec<_> = message
            .envelope
            .recipients
            .iter()
            .map(|target| self.settings.name(target))
            .collect();
        let unnamed =
            || Verdict::misconfigured("the account's name makes no address for the server");
        let verdicts = told
            .iter()
            .map(|told| told.is_none().then(unnamed))
            .collect();
        Passage {
            message,
            told,
            verdicts,
            sending: None,
            header: Some(Header::default()),
        }
    }

    /// Begins the message for the recipients at `places`, as far as they have no verdict yet.
    async fn begin(
        &self,
        kept: &mut Option<Transfer>,
        passage: &mut Passage<'_>,
        mut places: Vec<usize>,
    ) {
        loop {
            places.retain(|at| matches!(passage.verdicts.get(*at), Some(None)));
            if places.is_empty() {
                return;
            }
            let is_kept = kept.is_some();
            let connected = match kept.take() {
                Some(transfer) => Ok(transfer),
                None => self.connect().await,
            };
            let mut transfer = match connected {
                Ok(transfer) => transfer,
                Err(error) => {
                    let verdict = Verdict::Failed(error.cause(), chain(&error));
                    return passage.set_all(&places, &verdict);
                }
            };
            let (envelope, places) = passage.envelope(&transfer, &places);
            match transfer.begin(envelope).await {
                Ok(Begun::Data) => {
                    passage.sending = Some(Sending { transfer, places });
                    return;
                }
                // 421 for a message is the end of the connection, not of the message.
                Ok(Begun::Done(_)) if is_kept && !transfer.is_open() => {}
                Ok(Begun::Done(fates)) => {
                    let lost = (Cause::Failed, "server closed the connection");
                    passage.set(&places, fates, lost);
                    *kept = Some(transfer).filter(Transfer::is_open);
                    return;
                }
                Err(TransferError::Send(error)) => {
                    *kept = Some(transfer);
                    let verdict = Verdict::Failed(cause_of(error), error.to_string());
                    return passage.set_all(&places, &verdict);
                }
                Err(_) if is_kept => {}
                Err(error) => return passage.broken(&places, transfer, &error),
            }
        }
    }

    /// Passes the octets on, until the dot, or a cause that the front was told already.
    async fn pass(
        &self,
        kept: &mut Option<Transfer>,
        reception: &mut Reception<Target>,
        passage: &mut Passage<'_>,
    ) -> Result<Option<Cause>, Interrupted> {
        loop {
            match reception.next().await? {
                Event::Body(octets) => {
                    let subject = &mut passage.message.subject;
                    subject.size = subject.size.saturating_add(octets.len() as u64);
                    match &mut passage.header {
                        Some(header) => {
                            if header.push(&octets) {
                                self.release(kept, passage).await;
                            }
                        }
                        None => passage.send(&octets).await,
                    }
                }
                Event::Discard(cause) => return Ok(Some(cause)),
                Event::End => {
                    self.release(kept, passage).await;
                    passage.finish(kept).await;
                    return Ok(None);
                }
                Event::Begin(_) | Event::Close(_) | Event::More | Event::Recipient(_) => {
                    return Err(Interrupted::Closed);
                }
            }
        }
    }

    /// The header is known: refuses those it names, and sends it to the server for the others.
    async fn release(&self, kept: &mut Option<Transfer>, passage: &mut Passage<'_>) {
        let Some(header) = passage.header.take() else {
            return;
        };
        if let Some(places) = passage.refuse_loops(&header) {
            // Nothing was sent, and without its dot nothing is stored.
            passage.sending = None;
            self.begin(kept, passage, places).await;
        }
        passage.send(header.octets()).await;
    }
}

// === impl Passage ===

impl Passage<'_> {
    fn set_one(&mut self, at: usize, verdict: Verdict) {
        if let Some(open) = self.verdicts.get_mut(at) {
            open.get_or_insert(verdict);
        }
    }

    fn set_all(&mut self, places: &[usize], verdict: &Verdict) {
        for at in places {
            self.set_one(*at, verdict.clone());
        }
    }

    fn set(&mut self, places: &[usize], fates: Vec<Fate>, lost: (Cause, &str)) {
        for (at, fate) in places.iter().zip(fates) {
            let verdict = match fate {
                Fate::Broken => Verdict::Failed(lost.0, lost.1.to_owned()),
                Fate::Delivered(reply) => Verdict::Stored(Some(reply)),
                Fate::Permanent(reply) => Verdict::Refused(reply),
                Fate::Temporary(reply) => Verdict::Deferred(reply),
                Fate::Uncertain => Verdict::Failed(Cause::Uncertain, lost.1.to_owned()),
            };
            self.set_one(*at, verdict);
        }
    }

    /// The connection is of no further use.
    fn broken(&mut self, places: &[usize], transfer: Transfer, error: &TransferError) {
        let cause = match error {
            TransferError::TimedOut => Cause::TimedOut,
            TransferError::Closed
            | TransferError::Io(_)
            | TransferError::Protocol(_)
            | TransferError::Send(_) => Cause::Failed,
        };
        self.set(places, transfer.broken(), (cause, &chain(error)));
    }

    /// The same for all who have heard nothing yet.
    fn settle(&mut self, verdict: &Verdict) {
        self.sending = None;
        for open in &mut self.verdicts {
            open.get_or_insert_with(|| verdict.clone());
        }
    }

    /// What the server is told, and for whom: those whose address it can't take hear so.
    fn envelope(
        &mut self,
        transfer: &Transfer,
        wanted: &[usize],
    ) -> (Envelope<Recipient>, Vec<usize>) {
        let (mut recipients, mut places) = (Vec::new(), Vec::new());
        for at in wanted {
            let Some(Some(address)) = self.told.get(*at).cloned() else {
                continue;
            };
            if address.is_ascii() || transfer.takes_utf8() {
                recipients.push(Recipient {
                    address,
                    private: None,
                });
                places.push(*at);
            } else {
                let reason = SendError::Utf8.to_string();
                self.set_one(*at, Verdict::Failed(Cause::Utf8, reason));
            }
        }
        let facts = transfer
            .takes_private()
            .then(|| self.message.facts.encode());
        let Envelope {
            sender,
            size,
            body,
            smtputf8,
            ..
        } = &self.message.envelope;
        let envelope = Envelope {
            sender: sender.clone(),
            recipients,
            size: *size,
            body: *body,
            smtputf8: *smtputf8,
            private: facts,
        };
        (envelope, places)
    }

    /// The reply to DATA, if nobody takes the message and all for the same reason.
    fn one_refusal(&self) -> Option<Reply> {
        let mut replies = self
            .verdicts
            .iter()
            .map(|verdict| verdict.as_ref().map(Verdict::reply));
        let first = replies.next()??;
        replies
            .all(|reply| reply.as_ref() == Some(&first))
            .then_some(first)
    }

    /// Refuses those whom the header names; then the others, if there are any to begin again for.
    fn refuse_loops(&mut self, header: &Header) -> Option<Vec<usize>> {
        let places = self.sending.as_ref()?.places.clone();
        let recipients = &self.message.envelope.recipients;
        let is_loop = |at: &usize| {
            let address = recipients.get(*at).map(|target| target.address.to_string());
            let told = self.told.get(*at).and_then(Option::as_ref);
            address
                .into_iter()
                .chain(told.map(Address::to_string))
                .any(|address| header.names(&address))
        };
        let (looping, others): (Vec<_>, Vec<_>) = places.into_iter().partition(is_loop);
        if looping.is_empty() {
            return None;
        }
        let reason = "Delivered-To names the recipient".to_owned();
        self.set_all(&looping, &Verdict::Failed(Cause::Loop, reason));
        Some(others)
    }

    /// Sends octets to the server, if there is one.
    async fn send(&mut self, octets: &[u8]) {
        let Some(Sending { transfer, .. }) = &mut self.sending else {
            return;
        };
        if let Err(error) = transfer.body(octets).await
            && let Some(Sending { transfer, places }) = self.sending.take()
        {
            self.broken(&places, transfer, &error);
        }
    }

    /// Sends the dot, if there is a server, and hears what became of the message.
    async fn finish(&mut self, kept: &mut Option<Transfer>) {
        let Some(Sending {
            mut transfer,
            places,
        }) = self.sending.take()
        else {
            return;
        };
        match transfer.finish().await {
            Ok(fates) => {
                let lost = (Cause::Failed, "server closed the connection");
                self.set(&places, fates, lost);
                *kept = Some(transfer).filter(Transfer::is_open);
            }
            Err(error) => self.broken(&places, transfer, &error),
        }
        // Every recipient has a verdict by now; if one had not, nobody would answer for it.
        self.settle(&Verdict::Failed(Cause::Failed, "no answer".to_owned()));
    }

    fn tell(&self, reporter: &Reporter) {
        let targets = &self.message.envelope.recipients;
        for (target, verdict) in targets.iter().zip(&self.verdicts) {
            if let Some(verdict) = verdict {
                reporter.tell(&self.message.subject, target, verdict);
            }
        }
    }
}

// === impl ConnectError, ServerSettings ===

impl ConnectError {
    fn cause(&self) -> Cause {
        match self {
            Self::TimedOut(_) | Self::Greet(_, TransferError::TimedOut) => Cause::TimedOut,
            Self::Connect(..) | Self::Greet(..) => Cause::Failed,
        }
    }
}

impl ServerSettings {
    /// What the server is told of a recipient; nothing if that can't be said.
    fn name(&self, target: &Target) -> Option<Address> {
        match self.recipient {
            Naming::Account => {
                let account = target.facts.account.as_str();
                account_address(account, self.detail(&target.address))
            }
            Naming::Address => Some(target.address.clone()),
        }
    }

    /// The detail of an address with its delimiter; empty if there is none.
    fn detail<'a>(&self, address: &'a Address) -> &'a str {
        let local = address.local();
        match local.find(|c| self.recipient_delimiter.contains(c)) {
            // A local part that begins with one is a name.
            Some(at) if at > 0 => local.get(at..).unwrap_or_default(),
            Some(_) | None => "",
        }
    }
}

/// An account's name as an address: what follows its last `@` is a domain if it can be one, all else the local part.
fn account_address(account: &str, detail: &str) -> Option<Address> {
    let quoted = |local: &str, domain: &str| {
        let local = format!("{local}{detail}");
        let local = local.replace('\\', "\\\\").replace('"', "\\\"");
        Address::parse(&format!("\"{local}\"{domain}")).ok()
    };
    account
        .rfind('@')
        .and_then(|at| account.split_at_checked(at))
        .and_then(|(local, domain)| quoted(local, domain))
        .or_else(|| quoted(account, ""))
}

/// What a message that can't be sent to this server means.
const fn cause_of(error: SendError) -> Cause {
    match error {
        SendError::EightBit => Cause::EightBit,
        SendError::NotReady | SendError::Private => Cause::Failed,
        SendError::TooBig => Cause::TooBig,
        SendError::Utf8 => Cause::Utf8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_names_become_addresses() {
        for (account, detail, expected) in [
            ("ann", "", "ann"),
            ("ann", "+lists", "ann+lists"),
            ("ann@a.example", "+lists", "ann+lists@a.example"),
            ("odd name", "", "\"odd name\""),
            ("a\"b\\c@a.example", "", "\"a\\\"b\\\\c\"@a.example"),
            ("ann@not a domain", "", "\"ann@not a domain\""),
            ("@a.example", "", "\"@a.example\""),
            ("zo\u{eb}", "", "zo\u{eb}"),
        ] {
            let address = account_address(account, detail).unwrap().to_string();
            assert_eq!(address, expected, "{account}");
        }
        assert_eq!(account_address(&"x".repeat(255), ""), None);
    }

    #[test]
    fn details_begin_at_the_first_delimiter() {
        let detail = |delimiters: &str, address: &str| {
            let settings = ServerSettings {
                server: net::Address::parse("/x").unwrap(),
                recipient: Naming::Account,
                recipient_delimiter: delimiters.to_owned(),
                server_timeout: std::time::Duration::from_secs(1),
            };
            let address = Address::parse(address).unwrap();
            settings.detail(&address).to_owned()
        };
        assert_eq!(detail("+", "ann+a+b@a.example"), "+a+b");
        assert_eq!(detail("+-", "ann-a+b@a.example"), "-a+b");
        assert_eq!(detail("", "ann+a@a.example"), "");
        assert_eq!(detail("+", "+ann@a.example"), "");
    }
}
