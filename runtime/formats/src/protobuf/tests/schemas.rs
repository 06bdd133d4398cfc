//! Where schemas come from, and which message of a file is which.

use prost_reflect::prost_types::FileDescriptorSet;

use super::*;

#[test]
fn descriptors_come_from_files_sets_and_sources() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("imports")).unwrap();
    std::fs::write(folder.path().join("shop.proto"), SHOP).unwrap();
    std::fs::write(folder.path().join("imports/money.proto"), MONEY).unwrap();
    let dirs = [folder.path().to_owned(), folder.path().join("imports")];
    let files = Descriptors::from_files(&[folder.path().join("shop.proto")], &dirs).unwrap();
    let message = encoded(&files.message("shop.v1.Small").unwrap(), &json(r#"{"a": 1}"#));
    assert_eq!(message, [8, 1]);

    let set = protox::compile(["shop.proto"], &dirs).unwrap();
    let set = Descriptors::from_set(&prost::Message::encode_to_vec(&set)).unwrap();
    assert_eq!(set.message("shop.v1.Small").unwrap().decode(&message).unwrap(), json(r#"{"a": 1}"#));
    set.message("money.Amount").unwrap();

    let error = files.message("shop.v1.Orders").unwrap_err().to_string();
    assert!(
        error.starts_with("there is no message \"shop.v1.Orders\"; shop.proto has shop.v1.Order, "),
        "{error}"
    );
    assert!(!error.contains("money"), "{error}");
    assert!(Descriptors::from_set(b"x").unwrap_err().to_string().starts_with("no descriptor set"));
    let empty = prost::Message::encode_to_vec(&FileDescriptorSet::default());
    assert_eq!(Descriptors::from_set(&empty).unwrap_err().to_string(), "the descriptor set has no file");
    let error = Descriptors::from_sources(SHOP, &[]).unwrap_err().to_string();
    assert!(error.starts_with("schema.proto:11:5: import 'money.proto' not found"), "{error}");
    let error =
        Descriptors::from_sources("syntax = \"proto3\";\nmessage X { int32 a = 0; }", &[]).unwrap_err();
    assert!(error.to_string().starts_with("schema.proto:2:"), "{error}");
    let error = Descriptors::from_files(&[folder.path().join("none.proto")], &dirs).unwrap_err().to_string();
    assert!(error.contains("none.proto"), "{error}");
    let none: [&str; 0] = [];
    assert_eq!(Descriptors::from_files(&none, &dirs).unwrap_err().to_string(), "no .proto file is given");
    // The main file is the first, also if it is imported by the others.
    let both = [folder.path().join("imports/money.proto"), folder.path().join("shop.proto")];
    let both =
        Descriptors::from_files(&both, &[folder.path().join("imports"), folder.path().to_owned()]).unwrap();
    assert_eq!(both.message_at_indexes(&[0]).unwrap().name(), "money.Amount");
    both.message("shop.v1.Small").unwrap();
    // A reference may have any name.
    let named = format!("{MONEY} message Other {{}}");
    let main = r#"syntax = "proto3"; import "schema.proto"; message Main { money.Other other = 1; }"#;
    Descriptors::from_sources(main, &[("schema.proto", &named)]).unwrap().message("Main").unwrap();
}

#[test]
fn messages_have_indexes_in_their_file() {
    let shop = Descriptors::from_sources(SHOP, &[("money.proto", MONEY)]).unwrap();
    for (name, path) in [("Order", &[0][..]), ("Line", &[1]), ("Line.Detail", &[1, 0]), ("Known", &[2])] {
        let message = shop.message(&format!("shop.v1.{name}")).unwrap();
        assert_eq!(message.message_index_path(), path);
        assert_eq!(shop.message_at_indexes(path).unwrap().name(), message.name());
    }
    let error = shop.message_at_indexes(&[9, 1]).unwrap_err().to_string();
    assert_eq!(error, "schema.proto has no message at [9, 1]");
}

#[test]
fn lists_of_indexes_are_as_registries_have_them() {
    for (indexes, bytes) in
        [(&[0][..], &[0][..]), (&[1], &[2, 2]), (&[1, 0], &[4, 2, 0]), (&[64], &[2, 0x80, 1])]
    {
        let mut out = Vec::new();
        write_indexes(indexes, &mut out);
        assert_eq!(out, bytes);
        out.push(42);
        let mut rest = &out[..];
        assert_eq!(read_indexes(&mut rest).unwrap(), indexes);
        assert_eq!(rest, [42]);
    }
    // The long form of the first message.
    assert_eq!(read_indexes(&mut &[2, 0][..]).unwrap(), [0]);
    for bad in
        [&[][..], &[2], &[1, 0], &[2, 1], &[0xff, 0xff, 3], &[4, 2], &[2, 0xff, 0xff, 0xff, 0xff, 0x7f]]
    {
        read_indexes(&mut &bad[..]).unwrap_err();
    }
}

#[test]
fn a_file_may_be_its_descriptor_in_base64() {
    let text =
        "syntax = \"proto3\"; package shop; import \"money.proto\"; message Order { Money total = 1; }";
    let money = "syntax = \"proto3\"; package shop; message Money { int64 cents = 1; }";
    let of_texts = Descriptors::from_sources(text, &[("money.proto", money)]).unwrap();
    let mut resolver = ChainFileResolver::new();
    resolver.add(Texts(HashMap::from([
        ("order.proto".into(), text.into()),
        ("money.proto".into(), money.into()),
    ])));
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.open_file("order.proto").unwrap();
    let set = compiler.include_imports(true).file_descriptor_set();
    let descriptor = |name: &str| {
        let file = set.file.iter().find(|file| file.name() == name).unwrap();
        STANDARD.encode(file.encode_to_vec())
    };
    let (order, money) = (descriptor("order.proto"), descriptor("money.proto"));
    let of_descriptors = Descriptors::from_sources(&order, &[("money.proto", &money)]).unwrap();
    let value =
        Value::Record(vec![("total".into(), Value::Record(vec![("cents".into(), Value::Int(1250))]))]);
    let encoded = |descriptors: &Descriptors| {
        let mut out = Vec::new();
        descriptors.message("shop.Order").unwrap().encode(&value, &mut out).unwrap();
        out
    };
    assert_eq!(encoded(&of_texts), encoded(&of_descriptors));
}
