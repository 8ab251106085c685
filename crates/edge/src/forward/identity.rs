//! Telling an app who its visitor is. Pure.
//!
//! Set after everything a client said of these fields has been dropped; absent for visitors without a login.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use serde::Serialize;
use skep_model::Principal;

const USER_ID: HeaderName = HeaderName::from_static("x-sp-userid");
const USER_GROUPS: HeaderName = HeaderName::from_static("x-sp-usergroups");
/// Fills `session$user` and `session$groups` in Shiny for R, and their like in Shiny for Python.
const CREDENTIALS: HeaderName = HeaderName::from_static("shiny-server-credentials");

/// Adds who the visitor is.
pub(crate) fn tell(headers: &mut HeaderMap, principal: &Principal) {
    let Principal::User { name, groups } = principal else { return };
    // A name with a comma would read as two groups; it is in the credentials, which cannot be misread.
    let plain: Vec<&str> = groups.iter().map(String::as_str).filter(|group| !group.contains(',')).collect();
    set(headers, USER_ID, name.as_str().to_owned());
    set(headers, USER_GROUPS, plain.join(","));
    if let Ok(credentials) = serde_json::to_string(&Credentials { user: name.as_str(), groups }) {
        set(headers, CREDENTIALS, ascii(credentials));
    }
}

#[derive(Serialize)]
struct Credentials<'a> {
    user: &'a str,
    groups: &'a [String],
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: String) {
    // UTF-8, as frameworks expect it; control characters are in no name.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// JSON whose strings need no character outside ASCII.
fn ascii(json: String) -> String {
    if json.is_ascii() {
        return json;
    }
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            let mut units = [0_u16; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str, groups: &[&str]) -> Vec<String> {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        let mut headers = HeaderMap::new();
        tell(&mut headers, &Principal::User { name: name.parse().unwrap(), groups });
        headers.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v.as_bytes()))).collect()
    }

    #[test]
    fn a_user_is_told_in_every_form() {
        assert_eq!(
            told("ada", &["staff", "lab"]),
            [
                "x-sp-userid: ada",
                "x-sp-usergroups: staff,lab",
                "shiny-server-credentials: {\"user\":\"ada\",\"groups\":[\"staff\",\"lab\"]}",
            ]
        );
    }

    #[test]
    fn hostile_names_stay_one_value() {
        assert_eq!(
            told("é\"\u{1f41d}", &["a,admin", "b"]),
            [
                "x-sp-userid: é\"\u{1f41d}",
                "x-sp-usergroups: b",
                "shiny-server-credentials: {\"user\":\"\\u00e9\\\"\\ud83d\\udc1d\",\"groups\":[\"a,admin\",\"b\"]}",
            ]
        );
    }

    #[test]
    fn nobody_is_nobody() {
        for principal in [Principal::Anonymous, Principal::Guest(skep_model::GuestId(1))] {
            let mut headers = HeaderMap::new();
            tell(&mut headers, &principal);
            assert!(headers.is_empty());
        }
    }
}
