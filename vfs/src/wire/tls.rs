//! A TLS stream: its handshake with a deadline, and its configuration from files.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use rustix::net::{RecvFlags, recv};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::endpoint::Tls;
use crate::wire::dial::left;
use crate::wire::pace::time_for;
use crate::wire::socket::{Stream, receive};

/// How long certificate files that were read are used for further connections.
const FRESH: Duration = Duration::from_secs(60);
/// Hint for a handshake that fails because the server does not speak TLS.
const NO_TLS: &str = "without TLS, the address begins with redis://";

/// See the [module](self).
pub(crate) struct TlsStream {
    session: ClientConnection,
    stream: TcpStream,
}

/// Performs the handshake, which checks the server's certificate.
pub(crate) fn handshake(stream: TcpStream, tls: &Tls, host: &str, deadline: Instant) -> io::Result<TlsStream> {
    let name = tls.files.name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let session = ClientConnection::new(config(tls)?, name).map_err(io::Error::other)?;
    let mut tls = TlsStream { session, stream };
    let mut heard = false;
    while tls.session.is_handshaking() {
        tls.stream.set_write_timeout(Some(left(deadline)?))?;
        tls.drain()?;
        if !tls.session.is_handshaking() {
            break;
        }
        let left = left(deadline).map_err(|error| silent(error, heard))?;
        tls.stream.set_read_timeout(Some(left))?;
        match tls.session.read_tls(&mut Within(&tls.stream, left)) {
            Ok(0) => {
                let text = format!("the server closed the connection in the TLS handshake; {NO_TLS}");
                return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
            }
            Ok(_) => heard = true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(silent(error, heard));
            }
            Err(error) => return Err(error),
        }
        tls.process()?;
    }
    tls.drain()?;
    Ok(tls)
}

/// Turns a timeout of the handshake into an error with a hint, if the server sent nothing at all.
fn silent(error: io::Error, heard: bool) -> io::Error {
    if heard {
        return error;
    }
    io::Error::other(format!("no answer to the TLS handshake in time; {NO_TLS}"))
}

impl TlsStream {
    /// Processes received records, and sends the answers that they require.
    fn process(&mut self) -> io::Result<()> {
        let processed = self.session.process_new_packets().map(|_| ());
        // May send an alert that tells the server what is wrong.
        let drained = self.drain();
        match processed {
            Ok(()) => drained,
            Err(error) => Err(io::Error::new(ErrorKind::InvalidData, explained(&error))),
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        let (begun, mut taken) = (Instant::now(), 0);
        while self.session.wants_write() {
            taken += self.session.write_tls(&mut self.stream)?;
            let patience = self.stream.write_timeout()?.unwrap_or(Duration::MAX);
            if self.session.wants_write() && begun.elapsed() > time_for(patience, taken) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Reads decrypted bytes; calls `more` to receive further records.
    fn read_with(
        &mut self,
        buffer: &mut [u8],
        mut more: impl FnMut(&mut ClientConnection, &mut TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (begun, mut came) = (Instant::now(), 0);
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            // Only part of a record has arrived.
            if came > 0 && begun.elapsed() > time_for(self.stream.read_timeout()?.unwrap_or(Duration::MAX), came) {
                return Err(ErrorKind::TimedOut.into());
            }
            came += more(&mut self.session, &mut self.stream)?;
            self.process()?;
        }
    }
}

fn explained(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(_) => format!("the answer is not TLS ({error}); {NO_TLS}"),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure) => {
            format!("{error}; the server may want a certificate of the client (tls_cert and tls_key)")
        }
        _ => error.to_string(),
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.session.writer().write(bytes)?;
        self.drain()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.drain()
    }
}

/// Reads with a timeout.
struct Within<'a>(&'a TcpStream, Duration);

impl Read for Within<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        receive(self.0, buffer, self.1)
    }
}

/// Reads without waiting.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0.as_fd(), buffer, RecvFlags::DONTWAIT)?.0)
    }
}

impl Stream for TlsStream {
    fn set_timeout(&self, time: Duration) -> io::Result<()> {
        self.stream.set_timeout(time)
    }

    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.read_with(buffer, |session, stream| session.read_tls(&mut Within(stream, patience)))
    }

    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_with(buffer, |session, stream| session.read_tls(&mut Now(stream)))
    }
}

/// The last configuration: most processes need only one. `ArcSwap` has no lock that a fork could leave locked.
static LAST: ArcSwapOption<(Tls, Instant, Arc<ClientConfig>)> = ArcSwapOption::const_empty();

fn config(tls: &Tls) -> io::Result<Arc<ClientConfig>> {
    if let Some(last) = &*LAST.load()
        && last.0 == *tls
        && last.1.elapsed() < FRESH
    {
        return Ok(last.2.clone());
    }
    let config = Arc::new(new_config(tls)?);
    LAST.store(Some(Arc::new((tls.clone(), Instant::now(), config.clone()))));
    Ok(config)
}

fn new_config(tls: &Tls) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let builder = if tls.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(authorities(tls)?)
    };
    let mut config = match &tls.files.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
            let chain = chain.map_err(|error| unusable("tls_cert", certificate, &error))?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("tls_key", key, &error))?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| unusable("tls_cert", certificate, &error))?
        }
    };
    // Sessions for resumption would be kept behind a lock, which a fork could leave locked.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn unusable(setting: &str, path: &std::path::Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{setting}={}: {error}", path.display()))
}

/// The certificate authorities of `tls_ca`, or the system's.
fn authorities(tls: &Tls) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &tls.files.authorities else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        return match found.errors.first() {
            Some(error) if roots.is_empty() => Err(io::Error::other(error.to_string())),
            _ => Ok(roots),
        };
    };
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable("tls_ca", path, &error))? {
        let certificate = certificate.map_err(|error| unusable("tls_ca", path, &error))?;
        roots.add(certificate).map_err(|error| unusable("tls_ca", path, &error))?;
    }
    if roots.is_empty() {
        return Err(unusable("tls_ca", path, &"there is no certificate in it"));
    }
    Ok(roots)
}

/// For `#insecure`: accepts every certificate.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
