//! A user and a password, for the kinds of devices that know no others.

use crate::error::DeviceError;
use crate::secret::{Secret, SecretSource};

/// A user and a password. What is printed is the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

impl Credentials {
    /// Those that are configured; the password is read from where it is.
    ///
    /// # Errors
    /// If there is one without the other, or the password can't be read.
    pub(crate) fn read(user: Option<&str>, password: Option<&SecretSource>) -> Result<Option<Self>, DeviceError> {
        let wrong = |what: &str| Err(DeviceError::Config(what.to_owned()));
        match (user, password) {
            (None, None) => Ok(None),
            (Some(_), None) => wrong("user needs a password"),
            (None, Some(_)) => wrong("password needs a user"),
            (Some(user), Some(source)) => {
                let password = source.read().map_err(|e| DeviceError::Config(e.to_string()))?;
                Ok(Some(Self { user: user.to_owned(), password }))
            }
        }
    }
}
