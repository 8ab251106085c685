//! `parameters` and `parameter_sets`: what a person chooses before an instance of theirs starts.

use std::collections::BTreeMap;

use skep_docker::Reference;
use skep_model::{Access, Choice, Parameter, ParameterSet, ParameterValue, Parameters, named_in};
use toml::de::DeValue;

use super::app_keys::{AppKeys, one_line};
use super::document::{Placed, Section, read_text, read_texts, unexpected};
use super::problem::Problem;

/// Parameters one app may have, and values one of them may offer.
const MOST: usize = 20;
const MOST_VALUES: usize = 500;

/// As read: what belongs together is checked once all of it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ParameterKeys {
    list: Vec<Placed<Parameter>>,
    sets: Vec<Placed<ParameterSet>>,
}

impl ParameterKeys {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Self {
        let mut list = Vec::new();
        for (placed, mut own) in section.named_sections("parameters") {
            let name = placed.value.clone();
            if let Err(wrong) = good_name(&name) {
                own.report("title", wrong, "name it like `region`");
            }
            let parameter = Parameter {
                title: own
                    .parsed("title", "write a short text in quotes", one_line)
                    .unwrap_or_else(|| name.clone()),
                description: own.text("description").unwrap_or_default(),
                values: own
                    .get(
                        "values",
                        "write `values = [\"eu\", { value = \"us\", title = \"United States\" }]`",
                        values,
                    )
                    .unwrap_or_default(),
                default: own.text("default"),
                name,
            };
            own.finish();
            list.push(Placed { value: parameter, file: placed.file, at: placed.at, key: placed.key });
        }
        // In the order written.
        list.sort_by_key(|parameter| parameter.at);
        let mut sets = Vec::new();
        for mut own in section.sections("parameter_sets") {
            let mend = "write `values = { region = [\"eu\"], size = [\"small\", \"large\"] }`";
            let values = own.placed("values", mend, set_values);
            // Left out silently, it would open to everybody what it was to keep to some.
            if !own.is_set("values") {
                own.report("values", "is missing: what may be chosen from", mend);
            }
            let mut access = Access::default();
            if let Some(mut who) = own.section("access") {
                access.users = who.texts("users").unwrap_or_default();
                access.groups = who.texts("groups").unwrap_or_default();
                who.finish();
            }
            own.finish();
            if let Some(Placed { value, file, at, key }) = values {
                sets.push(Placed { value: ParameterSet { values: value, access }, file, at, key });
            }
        }
        Self { list, sets }
    }

    pub(crate) fn over(self, lower: Self) -> Self {
        if self.list.is_empty() {
            Self { sets: if self.sets.is_empty() { lower.sets } else { self.sets }, ..lower }
        } else if self.sets.is_empty() {
            // Sets that do not fit the other list are refused, rather than that nothing is restricted any more.
            Self { sets: lower.sets, ..self }
        } else {
            self
        }
    }

    /// # Errors
    /// What does not fit together.
    pub(crate) fn settle(&self, keys: &AppKeys) -> Result<Parameters, Problem> {
        self.check_each(keys)?;
        let names: Vec<&str> = self.list.iter().map(|parameter| parameter.value.name.as_str()).collect();
        for set in &self.sets {
            for (name, values) in &set.value.values {
                let Some(parameter) = self.list.iter().find(|parameter| parameter.value.name == *name) else {
                    let wrong = format!("names the parameter `{name}`, which there is not");
                    return Err(set.problem(wrong, "define it under `parameters`"));
                };
                let listed =
                    |value: &&String| parameter.value.values.iter().any(|listed| listed.value == **value);
                if let Some(unknown) = values.iter().find(|value| !listed(value)) {
                    let wrong = format!("allows `{unknown}`, which is no value of `{name}`");
                    return Err(
                        set.problem(wrong, format!("add it to `parameters.{name}.values`, or leave it out"))
                    );
                }
            }
        }
        let words = keys.command.iter().flatten().chain(keys.env.values());
        let words = words.chain(keys.image.as_ref().map(|image| &image.value));
        if let Some(unknown) = words.flat_map(|word| named_in(word)).find(|name| !names.contains(name)) {
            let wrong = format!("`{{param.{unknown}}}` stands for a parameter there is not");
            let mend = format!("define it under `parameters.{unknown}`");
            let known = self.list.first().map(|first| first.problem(wrong.clone(), mend.clone()));
            let image = || keys.image.as_ref().map(|image| image.problem(wrong.clone(), mend.clone()));
            let bare = || Problem {
                file: "".into(),
                at: None,
                key: "command, env or image".to_owned(),
                wrong: wrong.clone(),
                mend: mend.clone(),
            };
            return Err(known.or_else(image).unwrap_or_else(bare));
        }
        let list = self.list.iter().map(|parameter| parameter.value.clone()).collect();
        let parameters = Parameters { list, sets: self.sets.iter().map(|set| set.value.clone()).collect() };
        if let Some(image) = keys.image.as_ref().filter(|image| image.value.contains("{param.")) {
            check_images(image, &parameters)?;
        }
        Ok(parameters)
    }

    fn check_each(&self, keys: &AppKeys) -> Result<(), Problem> {
        if let Some(first) = self.list.first().filter(|_| keys.per_user != Some(true)) {
            let wrong = "is asked before an instance starts, and the instances of this app are shared";
            return Err(first.problem(wrong, "set `per_user = true`"));
        }
        if let Some(last) = self.list.get(MOST) {
            return Err(last.problem(format!("is one of more than {MOST} parameters"), "ask for less"));
        }
        for parameter in &self.list {
            let Parameter { values, default, .. } = &parameter.value;
            if values.is_empty() || values.len() > MOST_VALUES {
                let wrong = format!("offers {} values", values.len());
                return Err(parameter.problem(wrong, format!("list 1 to {MOST_VALUES} under `values`")));
            }
            if let Some(default) =
                default.as_ref().filter(|default| !values.iter().any(|v| v.value == **default))
            {
                let wrong = format!("has the default `{default}`, which is none of its values");
                return Err(parameter.problem(wrong, "name one of `values`"));
            }
        }
        Ok(())
    }
}

/// Whatever is chosen, the image must be one that can be asked for.
fn check_images(image: &Placed<String>, parameters: &Parameters) -> Result<(), Problem> {
    let first: Choice = parameters
        .list
        .iter()
        .filter_map(|parameter| Some((parameter.name.clone(), parameter.values.first()?.value.clone())))
        .collect();
    for parameter in &parameters.list {
        for value in &parameter.values {
            let mut choice = first.clone();
            choice.insert(parameter.name.clone(), value.value.clone());
            let name = skep_model::fill_in(&image.value, &choice);
            if let Err(error) = name.parse::<Reference>() {
                let wrong =
                    format!("becomes `{name}` with `{}` = `{}`: {error}", parameter.name, value.value);
                return Err(image.problem(wrong, ""));
            }
        }
    }
    Ok(())
}

pub(crate) fn good_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if (1..=64).contains(&name.len()) && name.chars().all(good) {
        Ok(())
    } else {
        Err(format!("`{name}` is no parameter's name: 1 to 64 letters, digits, `_` and `-`"))
    }
}

/// A value goes into commands, environments and names of images as it is.
fn good_value(value: &str) -> Result<(), String> {
    let good = (1..=200).contains(&value.chars().count())
        && !value.chars().any(|c| c.is_control() || matches!(c, '{' | '}'));
    if good {
        Ok(())
    } else {
        Err("holds a value that is not one line of 1 to 200 characters without braces".to_owned())
    }
}

fn values(value: &DeValue<'_>) -> Result<Vec<ParameterValue>, String> {
    let list = value.as_array().ok_or_else(|| unexpected(value, "a list"))?;
    let mut read: Vec<ParameterValue> = Vec::with_capacity(list.len());
    for item in list {
        let one = match item.get_ref() {
            DeValue::Table(table) => {
                if let Some((key, _)) =
                    table.iter().find(|(key, _)| !matches!(key.get_ref().as_ref(), "value" | "title"))
                {
                    return Err(format!(
                        "holds the key `{}`, where only `value` and `title` may stand",
                        key.get_ref()
                    ));
                }
                let text = |key: &str| table.get(key).map(|value| read_text(value.get_ref())).transpose();
                let value = text("value")?.ok_or("holds an entry without a `value`")?;
                ParameterValue { title: text("title")?.unwrap_or_else(|| value.clone()), value }
            }
            DeValue::Integer(number) => plain(number.as_str()),
            DeValue::Float(number) => plain(number.as_str()),
            other => plain(&read_text(other)?),
        };
        good_value(&one.value)?;
        if read.iter().any(|before| before.value == one.value) {
            return Err(format!("holds `{}` twice", one.value));
        }
        read.push(one);
    }
    Ok(read)
}

fn plain(value: &str) -> ParameterValue {
    ParameterValue { value: value.to_owned(), title: value.to_owned() }
}

fn set_values(value: &DeValue<'_>) -> Result<BTreeMap<String, Vec<String>>, String> {
    let table = value.as_table().ok_or_else(|| unexpected(value, "a table"))?;
    let one = |value: &DeValue<'_>| match value {
        DeValue::Array(_) => read_texts(value),
        other => Ok(vec![read_text(other)?]),
    };
    table.iter().map(|(name, value)| Ok((name.get_ref().to_string(), one(value.get_ref())?))).collect()
}
