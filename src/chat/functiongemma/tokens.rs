//! The control tokens of Gemma 3 and FunctionGemma: each is spelt here and nowhere else but in the chat template.

/// First token of every text.
pub const BOS: &str = "<bos>";
/// Last token of a text that is no chat.
pub const EOS: &str = "<eos>";
/// Filler.
pub const PAD: &str = "<pad>";
/// What a tokenizer without byte fallback writes for what it does not know.
pub const UNKNOWN: &str = "<unk>";
/// Left over from pretraining.
pub const MASK: &str = "<mask>";
/// Left over from pretraining.
pub const MULTIMODAL: &str = "[multimodal]";

/// Opens a tool's declaration.
pub const START_DECLARATION: &str = "<start_function_declaration>";
/// Closes it.
pub const END_DECLARATION: &str = "<end_function_declaration>";
/// Opens a call.
pub const START_CALL: &str = "<start_function_call>";
/// Closes it.
pub const END_CALL: &str = "<end_function_call>";
/// Opens a tool's response. The model writes it after the last call of a turn, and generation stops there.
pub const START_RESPONSE: &str = "<start_function_response>";
/// Closes it.
pub const END_RESPONSE: &str = "<end_function_response>";
/// Stands on both sides of a string.
pub const ESCAPE: &str = "<escape>";

/// Opens a turn; the role follows.
pub const START_TURN: &str = "<start_of_turn>";
/// Closes it.
pub const END_TURN: &str = "<end_of_turn>";
/// Opens the name of whom a message is for.
pub const START_RECEIVER: &str = "<start_receiver>";
/// Closes it.
pub const END_RECEIVER: &str = "<end_receiver>";

/// Opens an image.
pub const START_IMAGE: &str = "<start_of_image>";
/// Closes it.
pub const END_IMAGE: &str = "<end_of_image>";
/// Stands for a part of an image.
pub const IMAGE: &str = "<image_soft_token>";

/// All of them.
pub const ALL: [&str; 20] = [
    BOS,
    EOS,
    PAD,
    UNKNOWN,
    MASK,
    MULTIMODAL,
    START_DECLARATION,
    END_DECLARATION,
    START_CALL,
    END_CALL,
    START_RESPONSE,
    END_RESPONSE,
    ESCAPE,
    START_TURN,
    END_TURN,
    START_RECEIVER,
    END_RECEIVER,
    START_IMAGE,
    END_IMAGE,
    IMAGE,
];
