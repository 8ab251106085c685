//! What a person chooses before an instance of theirs starts: parameters, the values offered, and who may combine which.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Access, Principal};

/// Parameter → the value chosen for it.
pub type Choice = BTreeMap<String, String>;

/// An app's parameters, in the order they are asked for. None: it starts without asking.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters {
    pub list: Vec<Parameter>,
    /// Which values go together, and for whom. None: all with all, for everybody.
    pub sets: Vec<ParameterSet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub title: String,
    pub description: String,
    pub values: Vec<ParameterValue>,
    pub default: Option<String>,
}

/// A value and how it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterValue {
    pub value: String,
    pub title: String,
}

/// Values that go together: any of those named here, and any at all of a parameter not named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSet {
    pub values: BTreeMap<String, Vec<String>>,
    /// Nobody named: for everybody.
    pub access: Access,
}

/// Why a choice is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadChoice {
    #[error("nothing was chosen for {0}")]
    Missing(String),
    #[error("what was chosen for {0} is not offered")]
    NotOffered(String),
    #[error("there is no parameter `{0}`")]
    Unknown(String),
    #[error("these values do not go together")]
    NotTogether,
}

impl Parameters {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The sets `who` may choose from; `None`: there are none, so nothing restricts.
    pub fn sets_of(&self, who: &Principal) -> Option<Vec<&ParameterSet>> {
        let open = |set: &&ParameterSet| set.is_for(who);
        (!self.sets.is_empty()).then(|| self.sets.iter().filter(open).collect())
    }

    /// The values of a parameter that `who` may choose at all.
    pub fn offered<'a>(&'a self, parameter: &'a Parameter, who: &Principal) -> Vec<&'a ParameterValue> {
        let sets = self.sets_of(who);
        let may = |value: &&ParameterValue| {
            sets.as_ref().is_none_or(|sets| sets.iter().any(|set| set.allows(&parameter.name, &value.value)))
        };
        parameter.values.iter().filter(may).collect()
    }

    /// What is selected before anybody has chosen: what was chosen last where that is still offered, else the default, else the
    /// first value that `who` may choose.
    pub fn preselected(&self, who: &Principal, last: &Choice) -> Choice {
        let all = self.list.iter().filter_map(|parameter| {
            let offered = self.offered(parameter, who);
            let there = |value: &&String| offered.iter().any(|offer| offer.value == **value);
            let chosen = last.get(&parameter.name).filter(there).or(parameter.default.as_ref().filter(there));
            let chosen = chosen.or(offered.first().map(|offer| &offer.value))?;
            Some((parameter.name.clone(), chosen.clone()))
        });
        let choice: Choice = all.collect();
        if self.check(who, &choice).is_ok() {
            return choice;
        }
        // Defaults may each be offered and yet not go together: then the first that do.
        let first = self.sets_of(who).and_then(|sets| sets.first().copied());
        let of_first = |parameter: &Parameter| {
            let set = first?;
            let fits = |value: &&ParameterValue| set.allows(&parameter.name, &value.value);
            let value = parameter.values.iter().find(fits)?;
            Some((parameter.name.clone(), value.value.clone()))
        };
        self.list.iter().filter_map(of_first).collect()
    }

    /// Whether `who` may start an instance with this.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, who: &Principal, choice: &Choice) -> Result<(), BadChoice> {
        let names: BTreeSet<&str> = self.list.iter().map(|parameter| parameter.name.as_str()).collect();
        if let Some(unknown) = choice.keys().find(|name| !names.contains(name.as_str())) {
            return Err(BadChoice::Unknown(unknown.chars().take(80).collect()));
        }
        for parameter in &self.list {
            let title = || parameter.title.clone();
            let chosen = choice.get(&parameter.name).ok_or_else(|| BadChoice::Missing(title()))?;
            if !self.offered(parameter, who).iter().any(|offer| offer.value == *chosen) {
                return Err(BadChoice::NotOffered(title()));
            }
        }
        let together = |set: &ParameterSet| choice.iter().all(|(name, value)| set.allows(name, value));
        match self.sets_of(who) {
            Some(sets) if !sets.iter().any(|set| together(set)) => Err(BadChoice::NotTogether),
            _ => Ok(()),
        }
    }

    /// How a value is shown.
    pub fn title_of<'a>(&'a self, name: &str, value: &'a str) -> &'a str {
        let parameter = self.list.iter().find(|parameter| parameter.name == name);
        let listed =
            parameter.and_then(|parameter| parameter.values.iter().find(|listed| listed.value == value));
        listed.map_or(value, |listed| listed.title.as_str())
    }
}

impl ParameterSet {
    fn is_for(&self, who: &Principal) -> bool {
        let Access { users, groups, .. } = &self.access;
        if users.is_empty() && groups.is_empty() {
            return true;
        }
        let Principal::User { name, groups: own } = who else { return false };
        users.iter().any(|user| user.to_lowercase() == name.as_str().to_lowercase())
            || own.iter().any(|group| groups.contains(group))
    }

    pub fn allows(&self, name: &str, value: &str) -> bool {
        self.values.get(name).is_none_or(|values| values.iter().any(|allowed| allowed == value))
    }
}

/// Fills in `{param.<name>}`.
pub fn fill_in(text: &str, choice: &Choice) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{param.") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let inside = from.find('}').and_then(|end| Some((choice.get(from.get(7..end)?)?, end)));
        match inside {
            Some((value, end)) => {
                out.push_str(value);
                rest = &from[end + 1..];
            }
            None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The parameters a text names: `{param.<name>}`.
pub fn named_in(text: &str) -> Vec<&str> {
    let pieces = text.split("{param.").skip(1);
    pieces.filter_map(|piece| piece.split_once('}').map(|(name, _)| name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> Principal {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        Principal::User { name: name.parse().unwrap(), groups }
    }

    fn parameter(name: &str, values: &[&str], default: Option<&str>) -> Parameter {
        let value = |value: &&str| ParameterValue { value: (*value).to_owned(), title: value.to_uppercase() };
        Parameter {
            name: name.to_owned(),
            title: name.to_owned(),
            description: String::new(),
            values: values.iter().map(value).collect(),
            default: default.map(str::to_owned),
        }
    }

    fn set(values: &[(&str, &[&str])], groups: &[&str]) -> ParameterSet {
        let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        ParameterSet {
            values: values.iter().map(|(name, values)| ((*name).to_owned(), list(values))).collect(),
            access: Access { groups: list(groups), ..Access::default() },
        }
    }

    fn choice(pairs: &[(&str, &str)]) -> Choice {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn sets() -> Parameters {
        Parameters {
            list: vec![parameter("region", &["eu", "us"], Some("us")), parameter("size", &["s", "l"], None)],
            sets: vec![
                set(&[("region", &["eu"]), ("size", &["s"])], &[]),
                set(&[("region", &["eu", "us"])], &["lab"]),
            ],
        }
    }

    #[test]
    fn without_sets_everything_goes_with_everything() {
        let all = Parameters { sets: Vec::new(), ..sets() };
        let anybody = Principal::Anonymous;
        assert_eq!(all.check(&anybody, &choice(&[("region", "us"), ("size", "l")])), Ok(()));
        let bad = |pairs: &[(&str, &str)]| all.check(&anybody, &choice(pairs)).unwrap_err();
        assert_eq!(bad(&[("region", "us")]), BadChoice::Missing("size".to_owned()));
        assert_eq!(bad(&[("region", "us"), ("size", "xl")]), BadChoice::NotOffered("size".to_owned()));
        assert_eq!(bad(&[("region", "us"), ("size", "s"), ("x", "y")]), BadChoice::Unknown("x".to_owned()));
        assert_eq!(all.preselected(&anybody, &Choice::new()), choice(&[("region", "us"), ("size", "s")]));
        let last = choice(&[("region", "eu"), ("size", "gone")]);
        assert_eq!(all.preselected(&anybody, &last), choice(&[("region", "eu"), ("size", "s")]));
        assert_eq!(all.title_of("region", "eu"), "EU");
    }

    #[test]
    fn sets_say_who_may_combine_what() {
        let parameters = sets();
        let (eve, ada) = (user("eve", &[]), user("ada", &["lab"]));
        let values = |who: &Principal, at: usize| {
            let offered = parameters.offered(&parameters.list[at], who);
            offered.iter().map(|offer| offer.value.clone()).collect::<Vec<_>>()
        };
        assert_eq!((values(&eve, 0), values(&eve, 1)), (vec!["eu".to_owned()], vec!["s".to_owned()]));
        assert_eq!((values(&ada, 0).len(), values(&ada, 1).len()), (2, 2));
        let large = choice(&[("region", "us"), ("size", "l")]);
        assert_eq!(parameters.check(&ada, &large), Ok(()));
        assert_eq!(parameters.check(&eve, &large), Err(BadChoice::NotOffered("region".to_owned())));
        assert_eq!(parameters.preselected(&eve, &large), choice(&[("region", "eu"), ("size", "s")]));
        let apart = Parameters {
            sets: vec![
                set(&[("region", &["eu"]), ("size", &["l"])], &[]),
                set(&[("region", &["us"]), ("size", &["s"])], &[]),
            ],
            ..sets()
        };
        let mixed = choice(&[("region", "eu"), ("size", "s")]);
        assert_eq!(apart.check(&eve, &mixed), Err(BadChoice::NotTogether));
        assert_eq!(apart.check(&eve, &apart.preselected(&eve, &mixed)), Ok(()));
        let nobodys = Parameters { sets: vec![set(&[], &["lab"])], ..sets() };
        assert!(nobodys.offered(&nobodys.list[0], &eve).is_empty());
    }

    #[test]
    fn placeholders_are_filled_in_once() {
        let chosen = choice(&[("a", "{param.b}"), ("b", "x")]);
        assert_eq!(
            fill_in("--a={param.a} {param.b}{param.c} {port} {param.", &chosen),
            "--a={param.b} x{param.c} {port} {param."
        );
        assert_eq!(named_in("{param.a}/{param.b_2} {port} {param."), ["a", "b_2"]);
    }
}
