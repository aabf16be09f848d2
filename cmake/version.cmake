# The commit a binary was built from, refreshed on every build: fp4lab_version.h in the build tree.
add_custom_target(fp4lab_version
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DVERSION=${PROJECT_VERSION}
          -DOUTPUT=${PROJECT_BINARY_DIR}/generated/fp4lab_version.h -P ${PROJECT_SOURCE_DIR}/cmake/write_version.cmake
  BYPRODUCTS ${PROJECT_BINARY_DIR}/generated/fp4lab_version.h
  COMMENT "")
