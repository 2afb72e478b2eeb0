//! Files are looked at every so often: what was replaced, and is right, is used from then on.
//!
//! ```text
//! look ── as it was taken ──> nothing
//!   └── otherwise: load ── right ──> in use            (the same again: nothing is said)
//!                     └── wrong ──> next look ── still wrong, and unchanged ──> said once; what is in use stays
//! ```
//!
//! A look asks the system for size, inode and times; only what has changed is read, or was wrong the last time. A pair
//! is replaced in two steps by most tools: between them it does not fit, which the next look forgives. A certificate
//! that has expired replaces none.
//!
//! The first look reads everything: it finds out whether a process that has given up its rights can still read its
//! files, long before that matters. The caller waits between looks and does not look on a thread that serves.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{NoClientAuth, ProducesTickets},
    version::{TLS12, TLS13},
};

use super::{
    Certificate, Clash, Clients, Files, InUse, Settings, TicketKeys, Tls, TlsError,
    certificate::Shown,
    clashes,
    clients::{ClientSettings, NOTHING_ASKED},
    provider,
    tickets::Ticketer,
};

/// Looks at files, and puts to use what is new in them.
#[derive(Debug)]
pub struct Keeper {
    tls: Tls,
    every: Duration,
    default: Kept<Files, Certificate>,
    others: Vec<Kept<Files, Certificate>>,
    tickets: Option<Kept<PathBuf, TicketKeys>>,
    clients: Option<Kept<ClientSettings, Clients>>,
    ticketer: Arc<dyn ProducesTickets>,
    /// Certificates of which it was said that their time is not now.
    untimely: Vec<usize>,
}

/// What a look has found.
#[derive(Debug)]
pub enum News {
    /// Something new is in use.
    Taken(Of),
    /// What was wrong is right again, and the same as what is in use.
    Mended(Of),
    /// Something new is wrong; what is in use stays.
    Wrong(Of, TlsError),
    /// Two certificates have the same name.
    Clash(Clash),
    /// A certificate in use has expired, or has not begun.
    Untimely(Of, String),
}

/// Which files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Of {
    /// A certificate and its key: 0 is the default, others are counted from 1.
    Certificate(usize),
    /// Authorities for clients and their revocation lists.
    Clients,
    /// The keys of tickets.
    Tickets,
}

/// Something that is made of files.
#[derive(Debug)]
struct Kept<S, T> {
    source: S,
    value: T,
    /// The files that it was made of.
    taken: Option<Stamps>,
    /// Others that were wrong, and whether that was said.
    wrong: Option<(Stamps, bool)>,
}

/// What the system says of files without their being read.
type Stamps = Vec<Result<Stamp, io::ErrorKind>>;

/// Device, inode, size, mode, and the times of content and of everything else.
type Stamp = (u64, u64, u64, u32, [i64; 4]);

/// Where something is read from, and how.
trait Source<T> {
    fn paths(&self) -> Vec<&Path>;
    fn load(&self) -> Result<T, TlsError>;
    fn is_same(one: &T, two: &T) -> bool;
    /// Whether something right is also better than what is in use.
    fn may_replace(&self, _new: &T) -> Result<(), TlsError> {
        Ok(())
    }
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn load(settings: &Settings) -> Result<(Tls, Self), TlsError> {
        let default = Kept::load(settings.certificate.clone())?;
        let others = settings.others.iter().cloned().map(Kept::load);
        let others: Vec<Kept<_, Certificate>> = others.collect::<Result<_, _>>()?;
        let tickets = settings.ticket_keys.clone().map(Kept::load).transpose()?;
        let clients = settings.clients.clone().map(Kept::load).transpose()?;
        let ticketer = ticketer(tickets.as_ref(), clients.as_ref())?;
        let in_use = in_use(&default, &others, clients.as_ref(), &ticketer)?;
        let tls = Tls(Arc::new(RwLock::new(in_use)));
        let keeper = Self {
            tls: tls.clone(),
            every: settings.reload_every,
            default,
            others,
            tickets,
            clients,
            ticketer,
            untimely: Vec::new(),
        };
        Ok((tls, keeper))
    }

    /// How long to wait between looks.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// When each certificate in use ends.
    pub fn ends(&self) -> impl Iterator<Item = (Of, Timestamp)> {
        let all = self.certificates().enumerate();
        all.map(|(at, certificate)| (Of::Certificate(at), certificate.not_after()))
    }

    /// Looks once. Reads files: not for a thread that serves.
    pub fn look(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        let all = std::iter::once(&mut self.default).chain(&mut self.others);
        for (at, kept) in all.enumerate() {
            news.extend(kept.look(Of::Certificate(at)));
        }
        let mut asks_anew = false;
        if let Some(kept) = &mut self.clients {
            let found = kept.look(Of::Clients);
            asks_anew |= matches!(found, Some(News::Taken(_)));
            news.extend(found);
        }
        if let Some(kept) = &mut self.tickets {
            let found = kept.look(Of::Tickets);
            asks_anew |= matches!(found, Some(News::Taken(_)));
            news.extend(found);
        }
        let taken = |news: &News| matches!(news, News::Taken(_));
        if news.iter().any(taken) {
            if let Err((of, error)) = self.put(asks_anew) {
                news.push(News::Wrong(of, error));
            }
            let has_names = |news: &News| matches!(news, News::Taken(Of::Certificate(_)));
            if news.iter().any(has_names) {
                let found = clashes(self.certificates());
                news.extend(found.into_iter().map(News::Clash));
            }
        }
        self.look_at_the_clock(&mut news);
        news
    }

    fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        let all = std::iter::once(&self.default).chain(&self.others);
        all.map(|kept| &kept.value)
    }

    /// Says of each certificate once that its time is over.
    fn look_at_the_clock(&mut self, news: &mut Vec<News>) {
        let problems = self.certificates().map(Certificate::untimely).enumerate();
        for (at, problem) in problems.collect::<Vec<_>>() {
            let was_said = self.untimely.contains(&at);
            match problem {
                Some(problem) if !was_said => {
                    self.untimely.push(at);
                    news.push(News::Untimely(Of::Certificate(at), problem));
                }
                Some(_) => {}
                None => self.untimely.retain(|said| *said != at),
            }
        }
    }

    /// Puts to use what was read.
    fn put(&mut self, asks_anew: bool) -> Result<(), (Of, TlsError)> {
        let (tickets, clients) = (self.tickets.as_ref(), self.clients.as_ref());
        if asks_anew {
            self.ticketer = ticketer(tickets, clients).map_err(|error| (Of::Tickets, error))?;
        }
        let new = in_use(&self.default, &self.others, clients, &self.ticketer)
            .map_err(|error| (Of::Certificate(0), error))?;
        self.tls.put(new);
        Ok(())
    }
}

/// A ticket of this process' own is worth nothing once other things are asked of clients: the keys are made anew.
fn ticketer(
    tickets: Option<&Kept<PathBuf, TicketKeys>>,
    clients: Option<&Kept<ClientSettings, Clients>>,
) -> Result<Arc<dyn ProducesTickets>, TlsError> {
    let policy = clients.map_or(NOTHING_ASKED, |kept| kept.value.policy());
    match tickets {
        Some(kept) => Ok(Arc::new(Ticketer::new(kept.value.clone(), policy))),
        None => aws_lc_rs::Ticketer::new().map_err(TlsError::Pair),
    }
}

/// What IANA calls the protocols that are spoken under this TLS (RFC 7301, 6).
const ALPN: [&[u8]; 2] = [b"imap", b"pop3"];

fn in_use(
    default: &Kept<Files, Certificate>,
    others: &[Kept<Files, Certificate>],
    clients: Option<&Kept<ClientSettings, Clients>>,
    ticketer: &Arc<dyn ProducesTickets>,
) -> Result<InUse, TlsError> {
    let others = others.iter().map(|kept| &kept.value);
    let shown = Arc::new(Shown::new(&default.value, others));
    let config = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        let verifier = match clients {
            Some(kept) => kept.value.verifier(),
            None => Arc::new(NoClientAuth),
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(TlsError::Pair)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&shown) as _);
        // Clients name theirs in an order of habit: most have AES in hardware and put 256 bits first.
        config.ignore_client_order = true;
        config.ticketer = Arc::clone(ticketer);
        // A client that names its protocols and none of these was led here, as a browser can be: RFC 7301, 3.2 ends the
        // handshake, before any octet of what it says is read. One that names none is served.
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(config))
    };
    Ok(InUse {
        from_12: config(&[&TLS12, &TLS13])?,
        from_13: config(&[&TLS13])?,
        clients: clients.map(|kept| kept.value.clone()),
    })
}

// === impl Kept ===

impl<S: Source<T>, T> Kept<S, T> {
    /// Nothing is noted of the files yet, so the first look reads them again.
    fn load(source: S) -> Result<Self, TlsError> {
        Ok(Self {
            value: source.load()?,
            source,
            taken: None,
            wrong: None,
        })
    }

    fn look(&mut self, of: Of) -> Option<News> {
        // Before they are read: what changes meanwhile is seen by the next look.
        let stamps: Stamps = self.source.paths().into_iter().map(stamp).collect();
        if self.taken.as_ref() == Some(&stamps) {
            return self.mended(of);
        }
        let loaded = self.source.load().and_then(|value| {
            let is_same = S::is_same(&self.value, &value);
            if !is_same {
                self.source.may_replace(&value)?;
            }
            Ok((value, is_same))
        });
        match loaded {
            Ok((value, is_same)) => {
                self.taken = Some(stamps);
                if is_same {
                    return self.mended(of);
                }
                (self.value, self.wrong) = (value, None);
                Some(News::Taken(of))
            }
            Err(error) => match &mut self.wrong {
                Some((known, was_said)) if *known == stamps => {
                    let is_known = std::mem::replace(was_said, true);
                    (!is_known).then_some(News::Wrong(of, error))
                }
                _ => {
                    self.wrong = Some((stamps, false));
                    None
                }
            },
        }
    }

    fn mended(&mut self, of: Of) -> Option<News> {
        let (_, was_said) = self.wrong.take()?;
        was_said.then_some(News::Mended(of))
    }
}

fn stamp(path: &Path) -> Result<Stamp, io::ErrorKind> {
    let metadata = fs::metadata(path).map_err(|error| error.kind())?;
    let times = [
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ];
    let (device, inode) = (metadata.dev(), metadata.ino());
    Ok((device, inode, metadata.len(), metadata.mode(), times))
}

// === impl Source ===

impl Source<Certificate> for Files {
    fn paths(&self) -> Vec<&Path> {
        vec![&self.certificate, &self.key]
    }

    fn load(&self) -> Result<Certificate, TlsError> {
        Certificate::load(self)
    }

    fn is_same(one: &Certificate, two: &Certificate) -> bool {
        one.is_same(two)
    }

    fn may_replace(&self, new: &Certificate) -> Result<(), TlsError> {
        new.untimely().map_or(Ok(()), |problem| {
            Err(TlsError::Time {
                path: self.certificate.clone(),
                problem,
            })
        })
    }
}

impl Source<TicketKeys> for PathBuf {
    fn paths(&self) -> Vec<&Path> {
        vec![self]
    }

    fn load(&self) -> Result<TicketKeys, TlsError> {
        TicketKeys::from_file(self)
    }

    fn is_same(one: &TicketKeys, two: &TicketKeys) -> bool {
        one.is_same(two)
    }
}

impl Source<Clients> for ClientSettings {
    fn paths(&self) -> Vec<&Path> {
        let lists = self.revocations.as_deref();
        std::iter::once(self.authorities.as_path())
            .chain(lists)
            .collect()
    }

    fn load(&self) -> Result<Clients, TlsError> {
        Clients::load(self)
    }

    fn is_same(one: &Clients, two: &Clients) -> bool {
        one.is_same(two)
    }
}
