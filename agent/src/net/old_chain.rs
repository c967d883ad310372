//! Chains of certificates as internal CAs of 2012 made them: signed with SHA-1,
//! or by RSA keys of 1,024 bits. Only with `legacy`, and only that is different:
//! whose names, purposes and dates count, and whom to trust, is decided by the
//! same code as ever ([`rustls::client::WebPkiServerVerifier`]).
//!
//! In the words of OpenSSL: security level 0 for the digest and 1 for the keys.

use std::sync::LazyLock;

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::sign::Verifier;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};

use super::tls;

/// Bytes of an RSA modulus: from OpenSSL's security level 1 to what other verifiers take at most.
const MODULUS: std::ops::RangeInclusive<u32> = 128..=1024;

/// An RSA signature on a certificate (PKCS #1 v1.5), verified by OpenSSL.
#[derive(Debug)]
struct Signed {
    id: AlgorithmIdentifier,
    digest: fn() -> MessageDigest,
}

/// sha1WithRSAEncryption, with the parameters that RFC 3279 §2.2.1 wants.
const SHA1: AlgorithmIdentifier = AlgorithmIdentifier::from_slice(&[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05, 0x05, 0x00,
]);

static SIGNED: [Signed; 4] = [
    Signed { id: SHA1, digest: MessageDigest::sha1 },
    Signed { id: alg_id::RSA_PKCS1_SHA256, digest: MessageDigest::sha256 },
    Signed { id: alg_id::RSA_PKCS1_SHA384, digest: MessageDigest::sha384 },
    Signed { id: alg_id::RSA_PKCS1_SHA512, digest: MessageDigest::sha512 },
];

/// Ours, then those of the build's provider. Of several for one signature the first decides.
static ALL: LazyLock<Vec<&'static dyn SignatureVerificationAlgorithm>> = LazyLock::new(|| {
    let ours = SIGNED.iter().map(|signed| signed as &'static dyn SignatureVerificationAlgorithm);
    ours.chain(tls::provider().signature_verification_algorithms.all.iter().copied()).collect()
});

/// The build's provider, whose verifiers take such chains, too.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = (*tls::provider()).clone();
    provider.signature_verification_algorithms.all = ALL.as_slice();
    provider
}

impl SignatureVerificationAlgorithm for Signed {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let verified = || {
            let key = Rsa::public_key_from_der_pkcs1(public_key)?;
            if !MODULUS.contains(&key.size()) {
                return Ok(false);
            }
            let key = PKey::from_rsa(key)?;
            Verifier::new((self.digest)(), &key)?.verify_oneshot(signature, message)
        };
        // What cannot be read is no signature either.
        match verified() {
            Ok::<_, openssl::error::ErrorStack>(true) => Ok(()),
            _ => Err(InvalidSignature),
        }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.id
    }
}
