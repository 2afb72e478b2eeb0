//! Secrets: wiped when dropped, never printed, compared in constant time.
//!
//! Two kinds: a [`Secret`] is octets of any length (a password, a proof); a [`Key`] is the 32 octets that two ends of a
//! link share. The files that hold them are read only when they belong to root or to us, and nobody else can open them
//! but, to read, a group.
//!
//! It does not keep copies out of swap, and cannot wipe what libraries copied: ldap3 and rustls keep what they are given.
//! Limits: a secret file has at most 16 KiB (a private key of RSA 8192 fits).

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

/// The largest secret file, in octets.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// Octets that nobody may see.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// The key that the two ends of a link share.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; Self::BYTES]>);

/// Why a secret file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file could not be opened or read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its content has the wrong form.
    #[error(
        "{path} does not hold a key (expected 64 hexadecimal digits, as `pigeonair key` writes)"
    )]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// It is larger than any secret, or empty.
    #[error("{path} is empty or larger than 16 KiB")]
    Size {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to neither root nor us: its owner could change it or its mode at any time.
    #[error("{path} belongs to uid {owner} (expected root, or the user that this process has)")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Others than its owner and group may read it, or others than its owner may write it.
    #[error(
        "{path} has mode {mode:04o} (expected 0600 or 0640: nobody but owner and group may open it)"
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

// === impl Secret ===

impl Secret {
    /// Takes octets over; the caller keeps no copy.
    pub fn new(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// Reads a secret file, without the line end that editors add.
    pub fn from_file(path: &Path) -> Result<Self, SecretFileError> {
        let mut octets = read_private(path)?;
        while octets
            .last()
            .is_some_and(|octet| matches!(octet, b'\n' | b'\r'))
        {
            octets.pop();
        }
        if octets.is_empty() {
            return Err(SecretFileError::Size {
                path: path.to_owned(),
            });
        }
        Ok(Self(octets))
    }

    /// The octets themselves: for the one call that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

// === impl Key ===

impl Key {
    /// A key's size: that of the SHA-256 output it feeds.
    pub const BYTES: usize = 32;

    /// Takes a key over from its octets.
    pub fn new(octets: [u8; Self::BYTES]) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// Reads a key file: 64 hexadecimal digits and a line end.
    pub fn from_file(path: &Path) -> Result<Self, SecretFileError> {
        let secret = Secret::from_file(path)?;
        Self::from_hex(secret.expose()).ok_or_else(|| SecretFileError::Form {
            path: path.to_owned(),
        })
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(digits: &[u8]) -> Option<Self> {
        if digits.len() != Self::BYTES.checked_mul(2)? {
            return None;
        }
        let mut octets = Zeroizing::new([0; Self::BYTES]);
        for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            let high = char::from(*high).to_digit(16)?;
            let low = char::from(*low).to_digit(16)?;
            *octet = u8::try_from(high << 4 | low).ok()?;
        }
        Some(Self(octets))
    }

    /// Whether both are the same, in a time that says nothing of them.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }

    /// The key as 64 hexadecimal digits, as a key file holds it.
    pub fn to_hex(&self) -> Secret {
        Secret::new(
            self.0
                .iter()
                .flat_map(|octet| [octet >> 4, octet & 15])
                .map(|digit| {
                    if digit < 10 {
                        b'0'.wrapping_add(digit)
                    } else {
                        b'a'.wrapping_add(digit - 10)
                    }
                })
                .collect(),
        )
    }

    /// The octets themselves: for the key schedule alone.
    pub fn expose(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Reads a file that only its owner may change and that the world may not read.
fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let failed = |source| SecretFileError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // The open file is asked, not the path: what was checked is what is read.
    let metadata = file.metadata().map_err(failed)?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o137 != 0 {
        return Err(SecretFileError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(SecretFileError::Owner {
            path: path.to_owned(),
            owner,
        });
    }
    // Room for all of it from the start: a growing vector would leave copies behind.
    let mut octets = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize + 1));
    if let Err(source) = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut octets) {
        octets.zeroize();
        return Err(failed(source));
    }
    if octets.is_empty() || octets.len() as u64 > MAX_FILE_BYTES {
        return Err(SecretFileError::Size {
            path: path.to_owned(),
        });
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_key_survives_its_file() {
        let key = Key::new([0xa5; 32]);
        let mut content = key.to_hex().expose().to_vec();
        content.push(b'\n');
        let (_dir, path) = file(&content, 0o600);
        assert_eq!(Key::from_file(&path).unwrap().expose(), key.expose());
    }

    #[test]
    fn loose_modes_and_wrong_forms_are_refused() {
        for mode in [0o644, 0o604, 0o660, 0o601] {
            let (_dir, path) = file(b"x", mode);
            assert!(
                matches!(Secret::from_file(&path), Err(SecretFileError::Mode { .. })),
                "{mode:o}"
            );
        }
        let (_dir, path) = file(b"\n", 0o600);
        assert!(matches!(
            Secret::from_file(&path),
            Err(SecretFileError::Size { .. })
        ));
        let (_dir, path) = file(&[b'x'; 16 * 1024 + 1], 0o600);
        assert!(matches!(
            Secret::from_file(&path),
            Err(SecretFileError::Size { .. })
        ));
        let (_dir, path) = file(&[b'g'; 64], 0o640);
        assert!(matches!(
            Key::from_file(&path),
            Err(SecretFileError::Form { .. })
        ));
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        let (_dir, path) = file(b"x", 0o600);
        std::os::unix::fs::chown(&path, Some(20_001), None).unwrap();
        assert!(matches!(
            Secret::from_file(&path),
            Err(SecretFileError::Owner { owner: 20_001, .. })
        ));
    }

    #[test]
    fn what_a_link_leads_to_is_what_counts() {
        let (dir, path) = file(b"x", 0o600);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        // A link has an owner of its own, and a mode that is open to all.
        std::os::unix::fs::lchown(&link, Some(20_001), None).unwrap();
        assert_eq!(Secret::from_file(&link).unwrap().expose(), b"x");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        assert!(matches!(
            Secret::from_file(&link),
            Err(SecretFileError::Mode { mode: 0o604, .. })
        ));
    }

    #[test]
    fn nothing_is_printed() {
        assert_eq!(
            format!("{:?}{:?}", Secret::new(b"pw".to_vec()), Key::new([7; 32])),
            "Secret(..)Key(..)"
        );
    }
}
