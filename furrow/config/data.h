// [data]: files, splits and the feed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/config/field.h"

namespace furrow::config {

struct Data {
  std::string train_images = "train-images-idx3-ubyte";
  std::string train_labels = "train-labels-idx1-ubyte";
  std::string test_images = "t10k-images-idx3-ubyte";
  std::string test_labels = "t10k-labels-idx1-ubyte";
  std::vector<std::string> train_files = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                          "data_batch_4.bin", "data_batch_5.bin"};
  std::vector<std::string> test_files = {"test_batch.bin"};
  int64_t image_size = 0;
  int64_t resize_size = 0;
  int64_t crop_size = 0;
  bool random_resized_crop = false;
  double random_resized_crop_min_scale = 0.08;
  double random_resized_crop_max_scale = 1;
  double random_resized_crop_min_ratio = 3.0 / 4;
  double random_resized_crop_max_ratio = 4.0 / 3;
  int64_t random_crop_padding = 0;
  bool random_flip = false;
  std::string train_table;
  std::string test_table;
  std::string target;
  std::vector<std::string> column_names;
  std::string delimiter = ",";
  std::string decimal = ".";
  std::vector<std::string> ignore_columns;
  std::vector<std::string> categorical_columns;
  std::vector<std::string> numeric_columns;
  std::vector<std::string> date_columns;
  std::vector<std::string> missing_values = {"?", "NA", "NaN", "nan", "null"};
  std::string trim_characters = " \t";
  std::string unseen_category = "error";
  std::string tokenizer = "char";
  std::string tokenizer_path;
  std::vector<std::string> text_files;
  std::string document_separator;
  std::string document_tokens = "none";
  std::string windows = "overlapping";
  double validation_fraction = 0.1;
  double test_fraction = 0;
  bool normalize = true;
  int64_t prefetch_batches = 2;
  std::string memory_budget;
  int64_t readers = 0;
  bool shuffle = true;
  std::vector<std::string> mixture;

  template <class V>
  static void fields(V& v) {
    idx_files(v);
    images(v);
    tables(v);
    texts(v);
    splits(v);
    reading(v);
  }
  friend bool operator==(const Data&, const Data&) = default;

 private:
  template <class V>
  static void idx_files(V& v) {
    constexpr std::string_view kIdx = "training.dataset=idx|mixture";
    v("train_images", &Data::train_images,
      {.only_if = kIdx, .doc = "File name under dataset_path; the same name with .gz is found too."});
    v("train_labels", &Data::train_labels, {.only_if = kIdx, .doc = "Labels of train_images."});
    v("test_images", &Data::test_images,
      {.only_if = kIdx, .doc = "Images of the test split. Empty: no test split."});
    v("test_labels", &Data::test_labels, {.only_if = kIdx, .doc = "Labels of test_images."});
  }

  template <class V>
  static void images(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kCifar = "training.dataset=cifar10|mixture";
    constexpr std::string_view kFiles = "training.dataset=folder|mixture|pack";
    constexpr std::string_view kImages = "training.dataset=cifar10|folder|idx|mixture|pack";
    v("train_files", &Data::train_files,
      {.effect = kRecipe,
       .only_if = kCifar,
       .doc = "Files under dataset_path to train on, in this order; the same name with .gz is found too."});
    v("test_files", &Data::test_files,
      {.only_if = kCifar, .doc = "Files of the test split. None of them there: no test split."});
    v("image_size", &Data::image_size,
      {.effect = kRecipe,
       .min = 0,
       .max = 4096,
       .only_if = kFiles,
       .doc = "Image files are scaled so that their shorter side has this many pixels; the middle is taken. "
              "0: 32, and of a pack of image files what it was packed with."});
    v("resize_size", &Data::resize_size,
      {.effect = kRecipe,
       .min = 0,
       .max = 4096,
       .only_if = kFiles,
       .doc =
           "What the shorter side is scaled to before the middle is taken, torchvision's Resize. 0: what is "
           "taken of it."});
    v("crop_size", &Data::crop_size,
      {.effect = kRecipe,
       .min = 0,
       .max = 4096,
       .only_if = kFiles,
       .doc = "Pixels of a side that are taken of the middle, torchvision's CenterCrop. 0: image_size."});
    regions(v, kFiles);
    v("random_crop_padding", &Data::random_crop_padding,
      {.effect = kRecipe,
       .min = 0,
       .max = 1024,
       .only_if = kImages,
       .doc = "Training images are cropped at random from themselves with this many black pixels around "
              "them, anew in each epoch. 0: no crop."});
    v("random_flip", &Data::random_flip,
      {.effect = kRecipe,
       .only_if = kImages,
       .doc = "Every other training image is mirrored left to right, drawn anew in each epoch."});
  }

  template <class V>
  static void regions(V& v, std::string_view files) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kRegions = "data.random_resized_crop=true";
    v("random_resized_crop", &Data::random_resized_crop,
      {.effect = kRecipe,
       .only_if = files,
       .doc =
           "Training images are a region of the original, of random size, place and shape, scaled to "
           "crop_size, anew in each epoch: torchvision's RandomResizedCrop. Validation and test are not. Of "
           "packs for those of image files."});
    v("random_resized_crop_min_scale", &Data::random_resized_crop_min_scale,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .above_min = true,
       .only_if = kRegions,
       .doc = "The least share of the original's pixels that such a region has."});
    v("random_resized_crop_max_scale", &Data::random_resized_crop_max_scale,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .above_min = true,
       .only_if = kRegions,
       .doc = "The largest such share."});
    v("random_resized_crop_min_ratio", &Data::random_resized_crop_min_ratio,
      {.effect = kRecipe,
       .min = 0,
       .max = 100,
       .above_min = true,
       .only_if = kRegions,
       .doc = "The least ratio of such a region's width to its height."});
    v("random_resized_crop_max_ratio", &Data::random_resized_crop_max_ratio,
      {.effect = kRecipe,
       .min = 0,
       .max = 100,
       .above_min = true,
       .only_if = kRegions,
       .doc = "The largest such ratio."});
  }

  template <class V>
  static void tables(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kTable = "training.dataset=mixture|table";
    v("train_table", &Data::train_table,
      {.effect = kRecipe,
       .only_if = kTable,
       .doc =
           "The table in dataset_path, where that is a folder: a file, a pattern of files that are parts of "
           "one (\"part-*.parquet\"), or a folder of such. Empty: all tables of dataset_path, which must be "
           "parts of one."});
    v("test_table", &Data::test_table,
      {.only_if = kTable,
       .doc =
           "The table of the test split, in the same folder: a file, a pattern or a folder, as train_table. "
           "Empty: see test_fraction."});
    v("target", &Data::target, {.effect = kRecipe, .only_if = kTable, .doc = "The column to predict."});
    v("column_names", &Data::column_names,
      {.effect = kRecipe, .only_if = kTable, .doc = "Of a CSV file without a first line that has them."});
    v("delimiter", &Data::delimiter,
      {.effect = kRecipe,
       .choices = ",|;|:|tab",
       .only_if = kTable,
       .doc = "Between the columns of a CSV file."});
    v("decimal", &Data::decimal,
      {.effect = kRecipe,
       .choices = ".|,",
       .only_if = kTable,
       .doc = "Before the decimals of a number that is text: 3.14, or 3,14."});
    v("ignore_columns", &Data::ignore_columns,
      {.effect = kRecipe, .only_if = kTable, .doc = "Columns that are left out."});
    v("categorical_columns", &Data::categorical_columns,
      {.effect = kRecipe,
       .only_if = kTable,
       .doc =
           "Columns of categories, one input per value, even where the values are numbers. Columns with "
           "text are taken as such; where nearly all values are numbers (nine in ten, or all but one of five "
           "or more), a text is an error, and so is a column that is not listed and whose texts are "
           "nearly all different, or dates, or numbers with other decimals, thousands or a unit."});
    v("numeric_columns", &Data::numeric_columns,
      {.effect = kRecipe,
       .only_if = kTable,
       .doc = "Columns of numbers: any text in them is an error. Whole numbers that are nearly all "
              "different, as "
              "ids are, are warned of in columns that are not listed."});
    v("date_columns", &Data::date_columns,
      {.effect = kRecipe,
       .only_if = kTable,
       .doc =
           "Columns of text with dates (2024-02-29) or times (2024-02-29T12:30:00+01:00), ISO 8601: numbers, "
           "in days since 1970-01-01, of UTC where a zone is given. Dates and times of Parquet are such "
           "numbers without being listed, times of day shares of a day."});
    v("missing_values", &Data::missing_values,
      {.effect = kRecipe,
       .only_if = kTable,
       .doc =
           "Texts that stand for no value, besides the empty one. A missing number becomes the mean and sets "
           "an input of its own, a missing category is a category."});
    v("trim_characters", &Data::trim_characters,
      {.effect = kRecipe, .only_if = kTable, .doc = "Cut off both ends of each text in a table."});
    v("unseen_category", &Data::unseen_category,
      {.effect = kRecipe,
       .choices = "error|ignore",
       .only_if = kTable,
       .doc = "A category that the training file does not have: an error, or none of the inputs is set."});
  }

  template <class V>
  static void texts(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kText = "training.dataset=mixture|text";
    v("tokenizer", &Data::tokenizer,
      {.effect = kRecipe,
       .choices = "char|byte|gpt2|hf|sentencepiece",
       .only_if = kText,
       .doc = "char: one token per character that occurs in the text; byte: 256 tokens; gpt2: byte pairs; "
              "hf: byte pairs as Hugging Face's tokenizer.json has them, GPT-2's, Llama 3's or Qwen's; "
              "sentencepiece: the pieces of a model, lines being sentences where it has no token for their "
              "ends."});
    v("tokenizer_path", &Data::tokenizer_path,
      {.only_if = "data.tokenizer=gpt2|hf|sentencepiece",
       .doc =
           "The file of the tokenizer, vocab.bpe (or merges.txt), tokenizer.json or tokenizer.model, or its "
           "folder."});
    v("document_separator", &Data::document_separator,
      {.effect = kRecipe,
       .only_if = kText,
       .doc = "The text that ends a document, such as \"\\n\\n\". A sample is then several documents side by "
              "side, each "
              "seeing itself alone; whole documents are held back. Empty: the text is one stream."});
    v("document_tokens", &Data::document_tokens,
      {.effect = kRecipe,
       .choices = "none|end|begin_end",
       .only_if = kText,
       .doc =
           "What takes the place of the separator: none, it stays what it is, text; end, the token that ends "
           "a text, <|endoftext|> of gpt2, </s> of sentencepiece, the eos_token of hf; begin_end, also the "
           "one that begins it. "
           "Only with document_separator."});
    v("text_files", &Data::text_files,
      {.effect = kRecipe,
       .only_if = "training.dataset=text",
       .doc = "Files under dataset_path that make up the text, in this order, plain or .gz. Empty: "
              "dataset_path itself or, where it is a folder, every .txt and .txt.gz in it and below, by "
              "name."});
    v("windows", &Data::windows,
      {.effect = kRecipe,
       .choices = "overlapping|disjoint",
       .only_if = "training.dataset=mixture|pack|text",
       .doc =
           "Samples of a text for training. overlapping: seq_len tokens from any place, as many samples as "
           "tokens, so that an epoch sees a token seq_len times; disjoint: side by side, an epoch sees a "
           "token once, "
           "but for the ends, and is cut anew, from a place drawn from seed and epoch. Documents are not "
           "cut."});
  }

  template <class V>
  static void splits(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kImages = "training.dataset=cifar10|folder|idx|mixture|pack";
    constexpr std::string_view kCarved = "training.dataset=cifar10|folder|idx|mixture|table|text";
    v("validation_fraction", &Data::validation_fraction,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = kCarved,
       .doc = "Share of the training data kept for validation: random images or rows, or the end of the "
              "text; of a folder with val/ none. 0: none."});
    v("test_fraction", &Data::test_fraction,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = "training.dataset=mixture|table|text",
       .doc = "Share kept for the test: the end of the text, random rows of a table. 0: none."});
    v("normalize", &Data::normalize,
      {.effect = kRecipe,
       .only_if = kImages,
       .doc = "Subtract the mean and divide by the deviation of the training split, per channel."});
  }

  template <class V>
  static void reading(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    v("prefetch_batches", &Data::prefetch_batches,
      {.min = 0, .max = 1024, .doc = "Batches prepared ahead by threads of their own. 0: none."});
    v("memory_budget", &Data::memory_budget,
      {.doc =
           "Memory for data, such as \"256MiB\": a pack with more bytes is streamed instead of mapped, "
           "and no more batches are prepared ahead than fit; for other kinds of data it bounds those batches "
           "alone. The order and the bits stay the same. Empty: no limit."});
    v("readers", &Data::readers,
      {.min = 0,
       .max = 1024,
       .only_if = "training.dataset=folder|mixture|pack",
       .doc =
           "Threads that read batches, and the samples of one that takes long, side by side. 0: of image "
           "files, in a folder or a pack, every core, which decodes them; else one, or four where a pack is "
           "streamed."});
    v("shuffle", &Data::shuffle,
      {.effect = kRecipe,
       .doc = "Visit the training split in another order each epoch, a function of seed and epoch."});
    v("mixture", &Data::mixture,
      {.effect = kRecipe,
       .only_if = "training.dataset=mixture",
       .doc =
           "The sets of a mixture, each \"name: kind weight=W path=P\". An epoch has as many samples as all "
           "sets, "
           "shared out by weight; each set goes through its samples in its own order, epoch after epoch."});
  }
};

// Bytes of memory_budget, 0 where it is empty.  Error{invalid_argument} when it is no number of bytes.
uint64_t memory_budget(const Data& data);

}  // namespace furrow::config
