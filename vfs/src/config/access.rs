//! Authentication and TLS: the settings `credentials` and `tls_*`.

use std::path::PathBuf;

use crate::config::address::MOST_HOSTS;
use crate::config::credentials::Credentials;
use crate::config::endpoint::TlsFiles;
use crate::config::{Address, CREDENTIALS, Replicas, Setting, TLS_CA, TLS_CERT, TLS_KEY, TLS_NAME, Value};
use crate::model::error::Result;

/// Credentials and TLS files, the same for the server and its replicas.
pub(super) struct Access {
    credentials: Option<Credentials>,
    files: TlsFiles,
    /// A TLS setting of the URI: an error with an address without TLS. TLS settings of the environment are not.
    needs_tls: Option<Value>,
}

impl Access {
    pub(super) fn of(given: &[(&str, &str)]) -> Result<Access> {
        let value = |setting: &Setting| Value::of(setting, given).unless_default(setting);
        let credentials = value(&CREDENTIALS).map(Value::credentials).transpose()?;
        let identity = match (value(&TLS_CERT), value(&TLS_KEY)) {
            (Some(certificate), Some(key)) => Some((certificate.file()?, key.file()?)),
            (Some(alone), None) => return alone.bad("tls_key is missing: the key of this certificate"),
            (None, Some(alone)) => return alone.bad("tls_cert is missing: the certificate of this key"),
            (None, None) => None,
        };
        let authorities = value(&TLS_CA).map(Value::file).transpose()?;
        let name = value(&TLS_NAME).map(Value::host).transpose()?;
        let of_tls = [TLS_CERT, TLS_KEY, TLS_CA, TLS_NAME];
        let needs_tls =
            of_tls.iter().filter_map(value).find(|value| of_tls.iter().any(|tls| tls.parameter == value.name));
        Ok(Access { credentials, files: TlsFiles { identity, authorities, name }, needs_tls })
    }

    pub(super) fn server(&self, value: Value) -> Result<Address> {
        let address = value.server()?;
        if let Some(needs_tls) = self.needs_tls.as_ref().filter(|_| !address.is_tls()) {
            let reason =
                format!("{} is without TLS; the address must begin with rediss://, or leave this out", address.name());
            return Value { text: needs_tls.text.clone(), ..*needs_tls }.bad(reason);
        }
        Ok(address.with(self.credentials.as_ref(), &self.files))
    }

    pub(super) fn replicas(&self, all: Vec<Value>) -> Result<Replicas> {
        if let [Value { text, .. }] = all.as_slice()
            && text == "auto"
        {
            return Ok(Replicas::Auto);
        }
        if let Some(Value { name, .. }) = all.get(MOST_HOSTS) {
            let text = format!("{} addresses", all.len());
            return Value { name, text }.bad(format!("expected {MOST_HOSTS} at most"));
        }
        let one = |value: Value| {
            let name = value.name;
            match value.server()? {
                address @ Address::Fixed(_) => Ok(address.with(self.credentials.as_ref(), &self.files)),
                other => Value { name, text: other.name() }.bad("expected one server: redis://, rediss:// or unix://"),
            }
        };
        all.into_iter().map(one).collect::<Result<_>>().map(Replicas::Named)
    }
}

impl Value {
    /// `None` if the value is the setting's default, which stands for "not set".
    fn unless_default(self, setting: &Setting) -> Option<Value> {
        Some(self).filter(|value| value.text != setting.default)
    }

    fn credentials(self) -> Result<Credentials> {
        match Credentials::parse(&self.text) {
            Some(credentials) => Ok(credentials),
            None if self.text.starts_with("file:") || self.text.starts_with("env:") => self.bad(Credentials::EXPECTED),
            // The text may be the password itself, so the message does not show it.
            None => Value { text: "…".to_owned(), ..self }.bad(Credentials::EXPECTED),
        }
    }

    /// The path of an existing file.
    fn file(self) -> Result<PathBuf> {
        match std::fs::metadata(&self.text) {
            Ok(found) if found.is_dir() => self.bad("expected a file"),
            Ok(_) => Ok(self.text.into()),
            Err(error) => self.bad(format!("no such file: {error}")),
        }
    }

    fn host(self) -> Result<String> {
        match rustls::pki_types::ServerName::try_from(self.text.clone()) {
            Ok(_) => Ok(self.text),
            Err(_) => self.bad("expected the name of a host"),
        }
    }
}
