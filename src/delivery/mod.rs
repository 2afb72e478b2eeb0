//! The delivery role: from the MTA's LMTP to each recipient's home.
