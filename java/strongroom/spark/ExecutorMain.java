package strongroom.spark;

import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.InputStream;
import org.apache.spark.executor.CoarseGrainedExecutorBackend;

/** Starts an executor's JVM: adopt the cluster secret, then run Spark's own executor. */
public final class ExecutorMain {
  private ExecutorMain() {}

  public static void main(String[] arguments) throws Exception {
    InputStream input = new FileInputStream(FileDescriptor.in);
    ClusterSecret.adopt(input);
    Parent.watch(input);
    TemporaryFiles.separate();
    CoarseGrainedExecutorBackend.main(arguments);
  }
}
