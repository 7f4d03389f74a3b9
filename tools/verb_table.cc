#include "tools/verbs.h"

namespace kompakt {
namespace {

// One row per verb, in the order that --help shows.
constexpr VerbRow kVerbs[] = {
    {"convert", "pack a checkpoint (or a lossless .kpk) into a .kpk file",
     "kompakt convert DeepSeek-V2-Lite/ v2lite.kpk --recipe q4\n"
     "kompakt convert v2lite-lossless.kpk small.kpk --tensor 'mlp.experts.*=q4_g32'",
     MakeConvertVerb},
    {"plan", "say what convert would do: formats and why, size, memory, disk; reads headers only",
     "kompakt plan DeepSeek-V3/ --recipe q4\n"
     "kompakt plan v2lite.kpk --gpu 24GiB",
     MakePlanVerb},
    {"inspect", "show what is in a .kpk file, one tensor of it, or how it would run within --ram",
     "kompakt inspect v2lite.kpk\n"
     "kompakt inspect v2lite.kpk --tensor model.layers.1.mlp.experts.0.down_proj.weight\n"
     "kompakt inspect v2lite.kpk --ram 6GiB -c 4096",
     MakeInspectVerb},
    {"verify", "re-read every checksum of a .kpk; with --source compare tensors with the original",
     "kompakt verify v2lite.kpk --source DeepSeek-V2-Lite/", MakeVerifyVerb},
    {"export", "write a Hugging Face folder from a .kpk or from quantized upstream files",
     "kompakt export v2lite.kpk v2lite-bf16/ --to safetensors --dtype bf16\n"
     "kompakt export DeepSeek-V3/ v3-bf16/ --to safetensors --ram 1GiB\n"
     "kompakt export layer.safetensors out/ --loose --config config.json --dtype f32",
     MakeExportVerb},
    {"tokenize", "text to token ids, or ids to text",
     "kompakt tokenize v2lite.kpk -p 'Hello, world!'\n"
     "kompakt tokenize DeepSeek-V3/ --decode 19923,14,2058,3",
     MakeTokenizeVerb},
    {"trace", "write logits, hidden states and routing of given token ids as safetensors",
     "kompakt trace v2lite.kpk --ids 0,17,5 -o trace.safetensors", MakeTraceVerb},
    {"perplexity", "perplexity of a model on a text, with its standard error",
     "kompakt perplexity v2lite.kpk -f text.txt -c 512", MakePerplexityVerb},
    {"compare", "measure what packing cost: KL divergence, routing, hidden states, against the original",
     "kompakt compare DeepSeek-V2-Lite/ v2lite.kpk -f text.txt\n"
     "kompakt compare lossless.kpk q4.kpk -f text.txt --gate kl=0.02\n"
     "kompakt compare DeepSeek-V3/ -f text.txt --save-baseline v3.kbl\n"
     "kompakt compare v3.kbl q4.kpk -f text.txt",
     MakeCompareVerb},
    {"sensitivity", "measure what quantizing each part of a model alone does to its predictions",
     "kompakt sensitivity DeepSeek-V2-Lite/ -f text.txt -o v2lite.sensitivity.json\n"
     "kompakt convert DeepSeek-V2-Lite/ small.kpk --size 9GB --sensitivity v2lite.sensitivity.json",
     MakeSensitivityVerb},
    {"calibrate", "measure what a model's matrices multiply on a text, for convert --calibration",
     "kompakt calibrate DeepSeek-V2-Lite/ -o v2lite.kcal\n"
     "kompakt calibrate lossless.kpk -f text.txt -o mine.kcal --hessian",
     MakeCalibrateVerb},
    {"run", "generate text",
     "kompakt run v2lite.kpk -p 'Why is the sky blue?' --chat --think auto -n 256 --stats\n"
     "kompakt run v2lite.kpk -f prompt.txt --ram 6GiB",
     MakeRunVerb},
    {"bench", "measure tokens per second, or single ops, beside what this machine's memory and cores can do",
     "kompakt bench v2lite.kpk -p 512 -n 128 -d 0,4096\n"
     "kompakt bench --synthetic v2-lite --recipe q4 -t 1,8 --json\n"
     "kompakt bench --ops --filter 'linear q4_g32 tokens=1'\n"
     "kompakt bench --ops --list",
     MakeBenchVerb},
};

}  // namespace

absl::Span<const VerbRow> AllVerbs() { return kVerbs; }

}  // namespace kompakt
