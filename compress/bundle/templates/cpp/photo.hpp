// Compiled and run by Potstill's tests.
//
// Reads a photo. PPM (P6) always; JPEG and PNG with stb_image.h (Debian: apt install libstb-dev).
// stb_image does not turn a photo as its EXIF says: turn photos of phones upright before.
#pragma once

#include <fstream>
#include <stdexcept>
#include <string>

#include "view.hpp"

#if __has_include(<stb/stb_image.h>)
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#include <stb/stb_image.h>
#define BUNDLE_HAS_STB 1
#endif

namespace bundle {

inline Photo read_photo(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read");
  std::string kind(2, ' ');
  file.read(&kind[0], 2);
  if (kind == "P6") {
    int width, height, largest;
    file >> width >> height >> largest;
    file.get();
    if (!file || largest != 255 || width < 1 || height < 1)
      throw std::runtime_error(path + " is no PPM of 8-bit RGB");
    Photo photo = blank(width, height, 3);
    file.read(reinterpret_cast<char*>(photo.pixels.data()), std::streamsize(photo.pixels.size()));
    if (!file) throw std::runtime_error(path + " is cut short");
    return photo;
  }
#ifdef BUNDLE_HAS_STB
  int width, height, channels;
  unsigned char* pixels = stbi_load(path.c_str(), &width, &height, &channels, 3);
  if (!pixels) throw std::runtime_error(path + ": " + stbi_failure_reason());
  Photo photo = blank(width, height, 3);
  std::copy_n(pixels, photo.pixels.size(), photo.pixels.data());
  stbi_image_free(pixels);
  return photo;
#else
  throw std::runtime_error(path + ": only PPM is read here. Install stb_image.h for JPEG and PNG");
#endif
}

}  // namespace bundle
