//! Passwords as directories store them (RFC 2307 `userPassword`), and verifying against them.
//!
//! | scheme | form | cost |
//! | --- | --- | --- |
//! | `{SHA}` `{SHA256}` `{SHA512}` | base64 of the digest | quick |
//! | `{SSHA}` `{SSHA256}` `{SSHA512}` | base64 of digest and salt | quick |
//! | `{CRYPT}` | `$5$` or `$6$` (SHA-crypt) | slow |
//! | `{ARGON2}` `{ARGON2I}` `{ARGON2ID}`, or none of them | `$argon2i$` or `$argon2id$` (PHC string) | slow |
//! | `{PBKDF2-SHA256}` | iterations `$` salt `$` digest, base64 with `.` for `+` | slow |
//!
//! Slow ones run on threads of their own, at most one per core, so that logins never stop other sessions; waiting for a
//! turn counts against the deadline. Where slow ones are in use, a login that is refused without one (unknown, disabled, a
//! quick scheme) takes a turn all the same: whoever keeps the cores busy would otherwise see which accounts exist. Values with absurd costs (see the constants) are refused like unknown schemes.
//! A digest that begins with `!` or `*` is a locked password: it matches nothing. Passwords in clear are not a scheme.
//! Comparisons take constant time; errors never hold any part of a stored value.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq as _;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::secret::Secret;

/// Passwords that one account may have; each of them may cost a slow verification.
const MAX_VALUES: usize = 8;

/// SHA-crypt rounds: 0.2 s of one core.
const MAX_CRYPT_ROUNDS: u32 = 1_000_000;

/// Argon2 memory in KiB: what one verification takes from this process.
const MAX_ARGON2_MEMORY: u32 = 256 * 1024;

/// Argon2 work, memory in KiB times passes: about 1.5 s of one core.
const MAX_ARGON2_WORK: u64 = 2 * 1024 * 1024;

/// Argon2 lanes; they are computed one after the other.
const MAX_ARGON2_LANES: u32 = 64;

/// PBKDF2 iterations: about 1 s of one core.
const MAX_PBKDF2_ITERATIONS: u32 = 4_000_000;

/// The longest derived key that PBKDF2 is asked for, in octets; its cost grows with it.
const MAX_PBKDF2_BYTES: usize = 64;

/// Base64 with or without padding, since implementations differ.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A stored password, read.
pub(super) struct Stored(Form);

enum Form {
    Argon2(Box<Argon2>),
    Crypt(String),
    Digest {
        hash: Hash,
        digest: Vec<u8>,
        salt: Vec<u8>,
    },
    Locked,
    Pbkdf2 {
        iterations: u32,
        salt: Vec<u8>,
        key: Vec<u8>,
    },
}

#[derive(Clone, Copy)]
enum Hash {
    Sha1,
    Sha256,
    Sha512,
}

struct Argon2 {
    function: argon2::Argon2<'static>,
    salt: Vec<u8>,
    output: Vec<u8>,
}

/// Why a stored password is of no use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum StoredError {
    /// It would cost too much to verify.
    #[error("would cost too much to verify")]
    Cost,
    /// It does not have the form of its scheme.
    #[error("does not have the form of its scheme")]
    Form,
    /// There are more of them than an account may have.
    #[error("has more than 8 values")]
    Many,
    /// Its scheme is none that is verified here.
    #[error("has a scheme that is not verified here")]
    Scheme,
}

/// Why it could not be said whether a password matches.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum CheckError {
    /// No core was free in time.
    #[error("verifying the password took too long")]
    Late,
    /// No value could be read.
    #[error(transparent)]
    Stored(StoredError),
}

/// Verifies, the slow schemes on a bounded number of threads.
pub(super) struct Checker {
    cores: Arc<Semaphore>,
    /// The slow one that was verified last: what a login is held against that has none of its own.
    decoy: Mutex<Option<Arc<Stored>>>,
}

// === impl Stored ===

impl Stored {
    /// Reads one value of `userPassword`.
    pub(super) fn parse(value: &[u8]) -> Result<Self, StoredError> {
        let text = std::str::from_utf8(value).map_err(|_| StoredError::Scheme)?;
        if text.starts_with("$argon2") {
            return parse_argon2(text).map(Self);
        }
        let (scheme, rest) = text
            .strip_prefix('{')
            .and_then(|text| text.split_once('}'))
            .ok_or(StoredError::Scheme)?;
        if rest.starts_with(['!', '*']) {
            return Ok(Self(Form::Locked));
        }
        match scheme.to_ascii_uppercase().as_str() {
            "ARGON2" | "ARGON2I" | "ARGON2ID" => parse_argon2(rest),
            "CRYPT" => parse_crypt(rest),
            "PBKDF2-SHA256" => parse_pbkdf2(rest),
            "SHA" => parse_digest(Hash::Sha1, false, rest),
            "SHA256" => parse_digest(Hash::Sha256, false, rest),
            "SHA512" => parse_digest(Hash::Sha512, false, rest),
            "SSHA" => parse_digest(Hash::Sha1, true, rest),
            "SSHA256" => parse_digest(Hash::Sha256, true, rest),
            "SSHA512" => parse_digest(Hash::Sha512, true, rest),
            _ => Err(StoredError::Scheme),
        }
        .map(Self)
    }

    /// Whether verifying takes so long that it must not be done on a thread that serves sessions.
    fn is_slow(&self) -> bool {
        matches!(
            self.0,
            Form::Argon2(_) | Form::Crypt(_) | Form::Pbkdf2 { .. }
        )
    }

    /// Whether `password` is the one.
    pub(super) fn matches(&self, password: &[u8]) -> bool {
        match &self.0 {
            Form::Argon2(argon2) => argon2.matches(password),
            Form::Crypt(hash) => {
                use sha_crypt::PasswordVerifier as _;
                sha_crypt::ShaCrypt::default()
                    .verify_password(password, hash.as_str())
                    .is_ok()
            }
            Form::Digest { hash, digest, salt } => hash.of(password, salt).ct_eq(digest).into(),
            Form::Locked => false,
            Form::Pbkdf2 {
                iterations,
                salt,
                key,
            } => {
                let mut derived = vec![0; key.len()];
                pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, *iterations, &mut derived);
                derived.ct_eq(key).into()
            }
        }
    }
}

// === impl Hash ===

impl Hash {
    const fn bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn of(self, password: &[u8], salt: &[u8]) -> Vec<u8> {
        fn digest<D: sha2::Digest>(password: &[u8], salt: &[u8]) -> Vec<u8> {
            D::new()
                .chain_update(password)
                .chain_update(salt)
                .finalize()
                .to_vec()
        }
        match self {
            Self::Sha1 => digest::<Sha1>(password, salt),
            Self::Sha256 => digest::<Sha256>(password, salt),
            Self::Sha512 => digest::<Sha512>(password, salt),
        }
    }
}

// === impl Argon2 ===

impl Argon2 {
    fn matches(&self, password: &[u8]) -> bool {
        let mut output = vec![0; self.output.len()];
        self.function
            .hash_password_into(password, &self.salt, &mut output)
            .is_ok()
            && bool::from(output.ct_eq(&self.output))
    }
}

fn parse_digest(hash: Hash, salted: bool, text: &str) -> Result<Form, StoredError> {
    let mut digest = BASE64.decode(text).map_err(|_| StoredError::Form)?;
    if digest.len() < hash.bytes() {
        return Err(StoredError::Form);
    }
    let salt = digest.split_off(hash.bytes());
    if salt.is_empty() == salted {
        return Err(StoredError::Form);
    }
    Ok(Form::Digest { hash, digest, salt })
}

fn parse_crypt(text: &str) -> Result<Form, StoredError> {
    let fields = text
        .strip_prefix("$5$")
        .or_else(|| text.strip_prefix("$6$"))
        .ok_or(StoredError::Scheme)?;
    let (first, others) = fields.split_once('$').ok_or(StoredError::Form)?;
    let after_salt = match first.strip_prefix("rounds=") {
        None => others,
        Some(rounds) => {
            let rounds: u32 = rounds.parse().map_err(|_| StoredError::Form)?;
            if rounds > MAX_CRYPT_ROUNDS {
                return Err(StoredError::Cost);
            }
            // Fewer than 1000 are raised by crypt(3) when it makes a hash, so that none is ever stored.
            if rounds < 1000 {
                return Err(StoredError::Form);
            }
            others.split_once('$').ok_or(StoredError::Form)?.1
        }
    };
    if !matches!(after_salt.len(), 43 | 86) {
        return Err(StoredError::Form);
    }
    Ok(Form::Crypt(text.to_owned()))
}

fn parse_argon2(text: &str) -> Result<Form, StoredError> {
    use argon2::{Algorithm, Params, Version, password_hash::phc::PasswordHash};

    let form = |_| StoredError::Form;
    let phc = PasswordHash::new(text).map_err(|_| StoredError::Form)?;
    let algorithm = match phc.algorithm.as_str() {
        "argon2i" => Algorithm::Argon2i,
        "argon2id" => Algorithm::Argon2id,
        _ => return Err(StoredError::Scheme),
    };
    // A string without a version is of the first one, 0x10.
    let version = Version::try_from(phc.version.unwrap_or(0x10)).map_err(form)?;
    let params = Params::try_from(&phc).map_err(|_| StoredError::Form)?;
    let work = u64::from(params.m_cost()).saturating_mul(u64::from(params.t_cost()));
    if params.m_cost() > MAX_ARGON2_MEMORY
        || params.p_cost() > MAX_ARGON2_LANES
        || work > MAX_ARGON2_WORK
    {
        return Err(StoredError::Cost);
    }
    let (Some(salt), Some(output)) = (&phc.salt, &phc.hash) else {
        return Err(StoredError::Form);
    };
    Ok(Form::Argon2(Box::new(Argon2 {
        function: argon2::Argon2::new(algorithm, version, params),
        salt: salt.to_vec(),
        output: output.as_bytes().to_vec(),
    })))
}

fn parse_pbkdf2(text: &str) -> Result<Form, StoredError> {
    let mut fields = text.split('$');
    let (Some(iterations), Some(salt), Some(key), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(StoredError::Form);
    };
    let iterations: u32 = iterations.parse().map_err(|_| StoredError::Form)?;
    let decode = |field: &str| {
        BASE64
            .decode(field.replace('.', "+"))
            .map_err(|_| StoredError::Form)
    };
    let (salt, key) = (decode(salt)?, decode(key)?);
    if iterations > MAX_PBKDF2_ITERATIONS || key.len() > MAX_PBKDF2_BYTES {
        return Err(StoredError::Cost);
    }
    // A short key would match by chance.
    if iterations == 0 || key.len() < 16 {
        return Err(StoredError::Form);
    }
    Ok(Form::Pbkdf2 {
        iterations,
        salt,
        key,
    })
}

// === impl Checker ===

impl Checker {
    /// One slow verification per core at a time.
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cores: Arc::new(Semaphore::new(cores)),
            decoy: Mutex::default(),
        }
    }

    /// Whether `password` matches any of `values`. One that can be read is enough to say that it does not: whoever guesses would
    /// otherwise be told "try later" for as long as somebody has a value of another program beside it.
    pub(super) async fn check(
        &self,
        values: &[Secret],
        password: &Secret,
        deadline: Instant,
    ) -> Result<bool, CheckError> {
        if values.len() > MAX_VALUES {
            return Err(CheckError::Stored(StoredError::Many));
        }
        let mut slow = Vec::new();
        let (mut can_be_read, mut unreadable) = (false, None);
        for value in values {
            match Stored::parse(value.expose()) {
                Ok(stored) if stored.is_slow() => slow.push(Arc::new(stored)),
                Ok(stored) if stored.matches(password.expose()) => return Ok(true),
                Ok(_) => can_be_read = true,
                Err(error) => unreadable = Some(error),
            }
        }
        can_be_read |= !slow.is_empty();
        if let Some(first) = slow.first() {
            *self.lock_decoy() = Some(Arc::clone(first));
            if self.check_slow(slow, password.clone(), deadline).await? {
                return Ok(true);
            }
        } else {
            self.pretend(password, deadline).await?;
        }
        match unreadable {
            Some(error) if !can_be_read => Err(CheckError::Stored(error)),
            _ => Ok(false),
        }
    }

    /// Takes the time that a slow verification takes, its turn included, for a login that is refused without one. Does
    /// nothing until a slow scheme was met: then all are quick.
    pub(super) async fn pretend(
        &self,
        password: &Secret,
        deadline: Instant,
    ) -> Result<(), CheckError> {
        let decoy = self.lock_decoy().clone();
        if let Some(decoy) = decoy {
            self.check_slow(vec![decoy], password.clone(), deadline)
                .await?;
        }
        Ok(())
    }

    /// One assignment is all that happens under it.
    fn lock_decoy(&self) -> MutexGuard<'_, Option<Arc<Stored>>> {
        self.decoy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps all cores busy until dropped.
    #[cfg(test)]
    pub(super) async fn occupy(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = u32::try_from(self.cores.available_permits()).unwrap();
        let cores = Arc::clone(&self.cores);
        cores.acquire_many_owned(all).await.unwrap()
    }

    async fn check_slow(
        &self,
        slow: Vec<Arc<Stored>>,
        password: Secret,
        deadline: Instant,
    ) -> Result<bool, CheckError> {
        let turn = timeout_at(deadline, Arc::clone(&self.cores).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(CheckError::Late);
        };
        // The turn ends with the work, not with whoever waits for it: a caller that gave up has not freed the core.
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            slow.iter().any(|stored| stored.matches(password.expose()))
        });
        match timeout_at(deadline, work).await {
            Ok(Ok(matched)) => Ok(matched),
            // A verification that ended by panicking has not matched; it is counted where tasks are.
            Ok(Err(_)) | Err(_) => Err(CheckError::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Made by slappasswd (with pw-sha2 and argon2), `openssl passwd`, crypt(3) and Python's hashlib.
    const SECRET: [&str; 15] = [
        "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        "{SSHA}TjSAUwquZPUXR7NLmvgC7f2LbRYLg1Xc",
        "{ssha}TjSAUwquZPUXR7NLmvgC7f2LbRYLg1Xc",
        "{SHA256}K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=",
        "{SHA256}K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols",
        "{SSHA256}05MrIPr4jPhzv2hWnkrBWAjRK8/SRA9GJEmrBiC1AvBfnzMKKBAqBQ==",
        "{SHA512}vSsar3708Jvp9Szi2NWZZ02Bqp1qRCFpbcTZPdBhnWgs5WtNZKnvCXdhztmeD2cmW192CF5bDufKRpayrW/isg==",
        "{SSHA512}Nfz/wPTiQFBwwFvX10+cQDVykYI2YUYbfMLsk8UHKYkGJH9zZW19SwPbfupihy0PlfZrxy2EzStDcUJkiBgHtvvYYLDiFVug",
        "{CRYPT}$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA",
        "{CRYPT}$6$saltsaltsaltsalt$ph0yGsyjzqdeFaon7.gJZo8eAG5/rj9/JdzOu1Rl7dKzBYg3xgvl7T2VQ2Rt81bc5AXkdA54r0p8QvC1omD6R1",
        "{CRYPT}$6$rounds=1000$abc./d$7TKC4plOaaGXYvk/UpWyyFIdA/O/Tc4drXhLC3vHTeH0J4d1AVSNV.ySJ2SUnwee9ZqVAxvY9d.D2FD12NWv41",
        "{ARGON2}$argon2i$v=19$m=4096,t=3,p=1$Lr6/vj/YUV+5iVNvwtvi1A$8a4Is7m3ac5rddKmtzlBYa5ohi5QTlmnxxWAJloBogA",
        "{ARGON2I}$argon2i$v=19$m=4096,t=3,p=1$Lr6/vj/YUV+5iVNvwtvi1A$8a4Is7m3ac5rddKmtzlBYa5ohi5QTlmnxxWAJloBogA",
        "$argon2i$v=19$m=4096,t=3,p=1$Lr6/vj/YUV+5iVNvwtvi1A$8a4Is7m3ac5rddKmtzlBYa5ohi5QTlmnxxWAJloBogA",
        "{PBKDF2-SHA256}10000$8PHy8/T19vf4.fr7/P3./w$lTMCNzWmW08c/6hutzCaCN0RUddt9VLbO50xh07nZ1A",
    ];

    #[test]
    fn what_others_made_is_verified() {
        for value in SECRET {
            let stored = Stored::parse(value.as_bytes()).unwrap_or_else(|e| panic!("{value}: {e}"));
            assert!(stored.matches(b"secret"), "{value}");
            assert!(!stored.matches(b"secreT"), "{value}");
            assert!(!stored.matches(b""), "{value}");
        }
        for (value, password) in [
            ("{SSHA}QrNwU/R8wdv7A7NXvdz6GRAHfmceXHxH", "pa ss\"ö"),
            ("{SHA}fx9kXYB6WQuyrE4M94z2tHsZGGo=", "pa ss\"ö"),
            (
                "{CRYPT}$5$rounds=12345$ab$.1c/5ZdT3klDtN1OsgYWanncXwZ/F9vrXBPvJ6c1jE7",
                "päss wort",
            ),
        ] {
            let stored = Stored::parse(value.as_bytes()).unwrap();
            assert!(stored.matches(password.as_bytes()), "{value}");
        }
    }

    #[test]
    fn argon2id_is_verified() {
        use argon2::password_hash::PasswordHasher as _;
        let params = argon2::Params::new(64, 2, 2, None).unwrap();
        let function =
            argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let hash: argon2::password_hash::phc::PasswordHash = function
            .hash_password_with_salt(b"secret", b"saltsaltsalt")
            .unwrap();
        let stored = Stored::parse(format!("{{ARGON2}}{hash}").as_bytes()).unwrap();
        assert!(stored.matches(b"secret"));
        assert!(!stored.matches(b"secre"));
    }

    #[test]
    fn what_is_unknown_broken_or_too_dear_is_refused() {
        use StoredError::{Cost, Form, Scheme};
        let sha_crypt = "a".repeat(86);
        for (value, error) in [
            ("secret", Scheme),
            ("", Scheme),
            ("{PLAIN}secret", Scheme),
            ("{CLEARTEXT}secret", Scheme),
            ("{SASL}ann@EXAMPLE.ORG", Scheme),
            ("{CRYPT}$1$abc$abcdef", Scheme),
            ("{CRYPT}$y$j9T$abc$def", Scheme),
            ("{CRYPT}ab01FAX.bQRSU", Scheme),
            ("{SSHA}", Form),
            ("{SSHA}%%%%", Form),
            ("{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", Form),
            ("{SHA}TjSAUwquZPUXR7NLmvgC7f2LbRYLg1Xc", Form),
            ("{SHA}5en6", Form),
            ("{CRYPT}$6$salt$short", Form),
            ("{CRYPT}$6$salt", Form),
            (
                &format!("{{CRYPT}}$6$rounds=1000001$salt${sha_crypt}"),
                Cost,
            ),
            (&format!("{{CRYPT}}$6$rounds=999$salt${sha_crypt}"), Form),
            (&format!("{{CRYPT}}$6$rounds=x$salt${sha_crypt}"), Form),
            ("{ARGON2}$argon2id$v=19$m=65536,t=2,p=1$c2FsdHNhbHQ", Form),
            ("{ARGON2}$argon2id", Form),
            (
                "$argon2d$v=19$m=4096,t=3,p=1$Lr6/vj/YUV+5iVNvwtvi1A$8a4Is7m3ac5rddKmtzlBYa5ohi5QTlmnxxWAJloBogA",
                Scheme,
            ),
            (
                "$argon2id$v=19$m=4194304,t=1,p=1$Lr6/vj/YUV+5iVNvwtvi1A$8a4Is7m3ac5rddKmtzlBYa5ohi5QTlmnxxWAJloBogA",
                Cost,
            ),
            (
                "$argon2id$v=19$m=65536,t=1000,p=1$Lr6/vj/YUV+5iVNvwtvi1A$8a4Is7m3ac5rddKmtzlBYa5ohi5QTlmnxxWAJloBogA",
                Cost,
            ),
            ("{PBKDF2-SHA256}10000$8PHy8/T19vf4", Form),
            (
                "{PBKDF2-SHA256}0$8PHy8/T19vf4.fr7/P3./w$lTMCNzWmW08c/6hutzCaCN0RUddt9VLbO50xh07nZ1A",
                Form,
            ),
            ("{PBKDF2-SHA256}1000$8PHy8/T19vf4.fr7/P3./w$lTMC", Form),
            (
                "{PBKDF2-SHA256}4000001$8PHy8/T19vf4.fr7/P3./w$lTMCNzWmW08c/6hutzCaCN0RUddt9VLbO50xh07nZ1A",
                Cost,
            ),
        ] {
            assert_eq!(
                Stored::parse(value.as_bytes()).err(),
                Some(error),
                "{value}"
            );
        }
        assert_eq!(Stored::parse(b"{SSHA}\xff").err(), Some(Scheme));
    }

    #[test]
    fn a_locked_password_matches_nothing() {
        for value in ["{CRYPT}!$6$salt$x", "{CRYPT}*", "{SSHA}!"] {
            let stored = Stored::parse(value.as_bytes()).unwrap();
            for password in ["", "!", "*", "secret"] {
                assert!(!stored.matches(password.as_bytes()));
            }
        }
    }

    fn secrets(values: &[&str]) -> Vec<Secret> {
        values
            .iter()
            .map(|value| Secret::new(value.as_bytes().to_vec()))
            .collect()
    }

    #[tokio::test]
    async fn any_value_may_match() {
        let checker = Checker::new();
        let soon = Instant::now() + Duration::from_secs(60);
        let password = Secret::new(b"secret".to_vec());
        let other = Secret::new(b"other".to_vec());
        let both = secrets(&["{SASL}x", SECRET[0], SECRET[10]]);
        assert_eq!(checker.check(&both, &password, soon).await, Ok(true));
        // One that can be read is enough to say that it is wrong, wherever it stands.
        for values in [
            &["{SASL}x", SECRET[0], SECRET[10]][..],
            &["{SASL}x", SECRET[0]],
            &[SECRET[10], "{CRYPT}$1$salt$x"],
            &["{SASL}x", "{CRYPT}!"],
        ] {
            let checked = checker.check(&secrets(values), &other, soon).await;
            assert_eq!(checked, Ok(false), "{values:?}");
        }
        // Where there is none, nobody can say so.
        let unreadable = secrets(&["{SASL}x", "{CRYPT}$1$salt$x"]);
        assert_eq!(
            checker.check(&unreadable, &other, soon).await,
            Err(CheckError::Stored(StoredError::Scheme))
        );
        let slow = secrets(&["{CRYPT}!", SECRET[10]]);
        assert_eq!(checker.check(&slow, &password, soon).await, Ok(true));
        assert_eq!(checker.check(&slow, &other, soon).await, Ok(false));
        assert_eq!(
            checker
                .check(&secrets(&["{CRYPT}!"; 9]), &other, soon)
                .await,
            Err(CheckError::Stored(StoredError::Many))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_core_ends_at_the_deadline() {
        let checker = Checker::new();
        let busy = checker.occupy().await;
        let soon = Instant::now() + Duration::from_secs(1);
        let password = Secret::new(b"secret".to_vec());
        let slow = secrets(&[SECRET[10]]);
        assert_eq!(
            checker.check(&slow, &password, soon).await,
            Err(CheckError::Late)
        );
        // Quick schemes need no turn.
        let quick = secrets(&[SECRET[0]]);
        assert_eq!(checker.check(&quick, &password, soon).await, Ok(true));
        drop(busy);
        let soon = Instant::now() + Duration::from_secs(60);
        assert_eq!(checker.check(&slow, &password, soon).await, Ok(true));
    }
}
