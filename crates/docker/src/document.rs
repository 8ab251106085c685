//! What the engine sent, untouched.

use serde_json::Value;

/// A JSON object of the engine with every field it came with. Reading never fails: a field that is absent or of another
/// type than expected is `None`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Document(pub(crate) Value);

impl Document {
    pub fn new(raw: Value) -> Self {
        Self(raw)
    }

    /// The value at a JSON pointer (`/State/Status`).
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }

    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.at(pointer)?.as_str()
    }

    pub fn number(&self, pointer: &str) -> Option<i64> {
        self.at(pointer)?.as_i64()
    }

    pub fn flag(&self, pointer: &str) -> Option<bool> {
        self.at(pointer)?.as_bool()
    }

    /// `Id` or `ID`: the engine is of two minds.
    pub fn id(&self) -> &str {
        self.text("/Id").or_else(|| self.text("/ID")).unwrap_or_default()
    }

    /// A label of a container (listed or inspected) or of an object with a spec.
    pub fn label(&self, name: &str) -> Option<&str> {
        ["/Labels", "/Config/Labels", "/Spec/Labels"]
            .into_iter()
            .find_map(|labels| self.at(labels)?.as_object()?.get(name)?.as_str())
    }

    /// Of `/info`: where the managers of the engine's Swarm listen, `host:port` each.
    pub fn remote_managers(&self) -> Vec<&str> {
        let managers = self.at("/Swarm/RemoteManagers").and_then(Value::as_array);
        let addresses = managers.into_iter().flatten().filter_map(|manager| manager.get("Addr")?.as_str());
        addresses.filter(|address| !address.is_empty()).collect()
    }

    pub fn raw(&self) -> &Value {
        &self.0
    }

    pub fn into_raw(self) -> Value {
        self.0
    }
}

/// The documents in a list; what is no object is left out.
pub(crate) fn list(value: Value) -> Vec<Document> {
    match value {
        Value::Array(items) => items.into_iter().filter(Value::is_object).map(Document).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unexpected_types_are_absent_and_nothing_is_lost() {
        let raw =
            json!({"ID": "x", "State": {"Pid": "seven"}, "Spec": {"Labels": {"a": "b"}}, "New": [1, null]});
        let document = Document::new(raw.clone());
        assert_eq!(document.id(), "x");
        assert_eq!(document.number("/State/Pid"), None);
        assert_eq!(document.label("a"), Some("b"));
        assert_eq!(document.label("c"), None);
        assert_eq!(document.into_raw(), raw);
        assert_eq!(list(json!([1, {"Id": "y"}, null])).len(), 1);
        let managers =
            json!([{"Addr": "10.0.0.1:2377"}, {"NodeID": "b"}, {"Addr": ""}, {"Addr": "[::1]:2377"}]);
        let info = Document::new(json!({"Swarm": {"RemoteManagers": managers}}));
        assert_eq!(info.remote_managers(), ["10.0.0.1:2377", "[::1]:2377"]);
        assert!(Document::new(json!({"Swarm": {"RemoteManagers": null}})).remote_managers().is_empty());
        assert!(list(json!({"message": "no list"})).is_empty());
    }
}
